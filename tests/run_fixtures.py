"""Run directories: some as the code writes them, some that it wrote."""

import contextlib
import json

import jax
import numpy as np
import pytest

from data_pipelines import files
from data_pipelines import leaks as leak_check
from experiments import evaluate
from experiments.configs import arc1, sudoku
from hrm_jax import build
from hrm_jax.workdir import checkpoints
from hrm_jax.workdir import config as workdir_config
from tests import builders

_NO_LEAKS = {'answers': 0, 'names': [], 'allow_leaks': False}


@pytest.fixture
def write_run(tmp_path):
  """Writes the files of a run that was not made: paper-sized ones above all.

  Called with a name, a config and what the files are to hold.
  """

  def write(
    name,
    config,
    version,
    scores=None,
    step=6,
    rows=100,
    evaluations=(),
    leaks=_NO_LEAKS,
    evaluation='step_{step}',
    **facts,
  ):
    directory = tmp_path / name
    directory.mkdir()
    fields = {**config.to_dict(), 'data_version': version, 'leaks': leaks}
    (directory / 'config.json').write_text(
      json.dumps(fields, indent=2, sort_keys=True) + '\n'
    )
    with (directory / 'metrics.jsonl').open('w') as file:
      for line in evaluations:
        file.write(json.dumps({'step': line['step'], 'loss': 2.0}) + '\n')
        file.write(json.dumps(line) + '\n')
    if scores is not None:
      where = directory / 'evaluation' / evaluation.format(step=step)
      where.mkdir(parents=True)
      record = {
        'step': step,
        'data_version': version,
        'trained_on': version,
        'halting': 'fixed',
        'rows': rows,
        'leaks': leaks,
        **facts,
        **scores,
      }
      files.write_json(where / 'scores.json', record)
    return directory

  return write


@pytest.fixture(scope='session')
def generated(tmp_path_factory):
  """Where the tiny experiment's puzzles are kept."""
  return tmp_path_factory.mktemp('generated')


@pytest.fixture
def tiny_config(generated, monkeypatch):
  """A tiny Sudoku experiment, of the system that compiles fastest."""
  monkeypatch.setenv('HRM_JAX_CACHE', str(generated))
  return _tiny_config()


def _tiny_config():
  config = sudoku.get_config('demo,direct')
  config.data.train = 'sudoku:box=2x2:count=20:tests=10'
  config.data.evaluate = config.data.train
  config.data.num_aug = 3
  config.seed = 3
  config.batch_size = 16
  config.total_steps = 4
  config.log_every = 1
  config.evaluate_every = 2
  config.checkpoint_every = 4
  config.model.hidden_size = 16
  config.model.num_heads = 2
  config.model.layers = 1
  config.model.expansion = 1.0
  config.model.puzzle_emb_ndim = 0
  config.evaluation.batch_size = 16
  return config


@pytest.fixture(scope='session')
def tiny_arc_config():
  """Makes the config of a tiny ARC experiment from a directory of tasks.

  Of the system that compiles fastest of those with segments.
  """

  def make(tasks):
    config = arc1.get_config('demo,recurrent_transformer')
    config.data.evaluate = str(tasks)
    config.data.canvas = 4
    config.data.num_aug = 3
    config.batch_size = 8
    config.model.hidden_size = config.model.puzzle_emb_ndim = 16
    config.model.num_heads = 2
    config.model.layers = 1
    config.model.expansion = 1.0
    config.evaluation.batch_size = 8
    return config

  return make


@pytest.fixture(scope='session')
def trained_run(generated, tmp_path_factory):
  """The tiny experiment, trained and scored for real."""
  root = tmp_path_factory.mktemp('trained')
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('HRM_JAX_CACHE', str(generated))
    builders.train(_tiny_config(), root / 'run')
    evaluate.run(root / 'run')
  return root / 'run'


def random_task(seed, width=3, known=True):
  """Random grids, which no augmentation turns into each other."""
  rng = np.random.default_rng(seed)
  pairs = [
    {
      'input': rng.integers(0, 10, (2, width)).tolist(),
      'output': rng.integers(0, 10, (2, 3)).tolist(),
    }
    for _ in range(3)
  ]
  if not known:
    del pairs[-1]['output']
  return {'train': pairs[:-1], 'test': pairs[-1:]}


@pytest.fixture(scope='session')
def random_arc_run(tiny_arc_config, tmp_path_factory):
  """A checkpoint, of random weights, of the tasks `a` (1) and `b` (2)."""
  root = tmp_path_factory.mktemp('random')
  (root / 'tasks').mkdir()
  for name, seed in (('a', 1), ('b', 2)):
    path = root / 'tasks' / f'{name}.json'
    path.write_text(json.dumps(random_task(seed)))
  config = tiny_arc_config(root / 'tasks')
  settings = builders.settings(config)
  puzzles = build.puzzle_set(settings)
  rng = np.random.default_rng(0)
  weights = jax.tree.map(
    lambda leaf: 0.3 * rng.normal(size=leaf.shape).astype(np.float32),
    jax.eval_shape(build.train_setup(settings, puzzles).init),
  )
  weights.puzzle_table[0] = 0
  workdir_config.claim(
    root / 'run', settings, puzzles, leak_check.Verdict([], (), False)
  )
  saved = checkpoints.Checkpoints(root / 'run', settings)
  with contextlib.closing(saved):
    saved.save_weights(
      7,
      weights.weights.variables,
      weights.puzzle_table,
      checkpoints.Position(0, puzzles.identifier_names(), puzzles.version),
    )
  return root / 'run'
