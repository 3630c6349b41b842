"""Makes a working directory as it is written today, and what comes of it.

  JAX_PLATFORMS=cpu python -m tests.golden.make_run

Writes tests/golden/run_vN, N being the format of the checkpoint:

  run/           of a tiny run that was told to stop: config.json,
                 metrics.jsonl and checkpoints/STEP, the last one
  state.npz      each array of its state
  expected.json  the lines of metrics that come next, and the scores

Every later version must read what a released one has written: a new format gets
a directory of its own, and the old ones stay.
"""

import dataclasses
import json
import pathlib
import shutil
import tempfile

import jax
import ml_collections
import numpy as np
from absl import app, logging

from experiments import evaluate
from experiments.configs import arc1
from hrm_jax.parallel import preemption
from hrm_jax.training import loop as training
from hrm_jax.training.state import TrainState
from hrm_jax.workdir import checkpoints
from hrm_jax.workdir import config as workdir_config
from tests import builders

GOLDEN = pathlib.Path(__file__).parent
# How often the run asks whether to stop: once while it is scored, and at each
# step up to 861, where its rows are at different segments.
_QUESTIONS = 862
_NEXT_STEPS = 3


def get_config() -> ml_collections.ConfigDict:
  """Fifteen ARC tasks, and a state with every kind of array."""
  config = arc1.get_config('demo')
  config.data.evaluate = 'arc1@arcagi:training'
  config.data.canvas = 3
  config.data.num_aug = 2
  config.batch_size = 16
  config.total_steps = 1600
  # The run stops amid a line of metrics, with a score to remember.
  config.log_every = 300
  config.evaluate_every = 800
  config.keep_checkpoints = 1
  config.keep_best = 1
  config.act.halting = 'q_learning'
  config.act.halt_max_steps = 4
  config.model.hidden_size = 8
  config.model.num_heads = 2
  config.model.H_layers = config.model.L_layers = 1
  config.model.puzzle_emb_ndim = 16
  config.optimizer.learning_rate = 1e-2
  config.optimizer.ema_decay = 0.9
  # Some updates are skipped.
  config.divergence.policy = 'skip'
  config.divergence.loss_spike = 1.25
  config.evaluation.batch_size = 64
  return config


def go_on(workdir: pathlib.Path, step: int) -> list[dict[str, float]]:
  """The lines that come next when a run goes on from a step."""
  config, _ = workdir_config.read(workdir)
  config = dataclasses.replace(
    config, log_every=1, stop_at_step=step + _NEXT_STEPS
  )
  before = len(_lines(workdir))
  builders.train(config, workdir)
  return _lines(workdir)[before:]


def scores(workdir: pathlib.Path, step: int) -> dict:
  """What `experiments.evaluate` writes of a step."""
  evaluate.run(workdir, step)
  path = workdir / 'evaluation' / f'step_{step}' / 'scores.json'
  return json.loads(path.read_text())


def named(state: TrainState) -> dict[str, np.ndarray]:
  """The arrays of a state by their places in it."""
  leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(state))
  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): leaf
    for path, leaf in leaves
  }


class _Notice(preemption.Notice):
  """Given when it has been asked for so often."""

  def __init__(self, questions: int):
    super().__init__()
    self._left = questions

  @property
  def received(self) -> bool:
    self._left -= 1
    return self._left < 0


def _lines(workdir: pathlib.Path) -> list[dict[str, float]]:
  text = (workdir / 'metrics.jsonl').read_text()
  return [json.loads(line) for line in text.splitlines()]


def make(directory: pathlib.Path) -> None:
  """Makes all three in an empty directory."""
  workdir, copy = directory / 'run', directory / 'copy'
  kept = []
  save = checkpoints.Checkpoints.save

  def keep(self, state, position):
    kept.append(named(state))
    save(self, state, position)

  # What is in memory, not what is read.
  checkpoints.Checkpoints.save = keep
  try:
    builders.train(get_config(), workdir, _Notice(_QUESTIONS))
  except training.Preempted as stopped:
    step = stopped.step
  finally:
    checkpoints.Checkpoints.save = save
  np.savez_compressed(directory / 'state.npz', **kept[-1])
  for path in (*workdir.iterdir(), *(workdir / 'checkpoints').iterdir()):
    if path.name not in (
      'config.json', 'metrics.jsonl', 'checkpoints', str(step)
    ):  # fmt: skip
      shutil.rmtree(path) if path.is_dir() else path.unlink()
  shutil.copytree(workdir, copy)
  expected = {
    'step': step,
    'scores': scores(copy, step),
    'next': go_on(copy, step),
  }
  shutil.rmtree(copy)
  text = json.dumps(expected, indent=1, sort_keys=True)
  (directory / 'expected.json').write_text(text + '\n')


def main(_) -> None:
  logging.set_verbosity(logging.ERROR)
  place = GOLDEN / f'run_v{checkpoints.FORMAT_VERSION}'
  with tempfile.TemporaryDirectory() as directory:
    make(pathlib.Path(directory))
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(directory, place)
  print(f'Written: {place}')


if __name__ == '__main__':
  app.run(main)
