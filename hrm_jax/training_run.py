"""Trains a model; started again on the same workdir, it continues."""

import contextlib
import dataclasses
import pathlib
from typing import Any

import jax
import numpy as np
from absl import logging
from jax.sharding import Mesh

from data_pipelines import files
from data_pipelines.errors import ConfigError
from data_pipelines.leaks import Verdict
from data_pipelines.puzzle_set import EvaluationRows, PuzzleSet
from hrm_jax import build
from hrm_jax.inference import evaluation
from hrm_jax.inference import predict as inference
from hrm_jax.parallel import preemption, processes, sharding
from hrm_jax.settings import Settings
from hrm_jax.training import loop
from hrm_jax.training import step as train_step
from hrm_jax.training.state import TrainState
from hrm_jax.workdir import checkpoints, config, lock, metrics
from hrm_jax.workdir import weights_and_biases as wandb_tracker


def train(
  settings: Settings,
  workdir: str | pathlib.Path,
  notice: preemption.Notice | None = None,
  wandb: str | None = None,
) -> TrainState:
  """Trains, or continues, as the settings say; returns the last state.

  Args:
    settings: the experiment.
    workdir: directory of the run, made where it is missing.
    notice: when to save and stop; None for never.
    wandb: project of Weights & Biases that gets the metrics too, if any.

  Raises:
    ConfigError, DataError: settings, data or workdir that cannot be used, and
      then nothing has been written; or training that cannot continue.
    training.loop.Preempted: `notice` was given; the state is saved.
  """
  workdir = pathlib.Path(workdir)
  # All that can be wrong is looked at before anything is written.
  if wandb:
    wandb_tracker.check()
  run = _prepare(settings)
  agreement = preemption.Agreement(notice or preemption.Notice(), run.mesh)
  with contextlib.ExitStack() as stack:
    trackers = []

    def claim():
      stack.enter_context(lock.hold(workdir))
      config.claim(workdir, settings, run.puzzles, run.leaking)
      if wandb:
        tracker = wandb_tracker.Tracker(wandb, workdir, settings.to_dict())
        trackers.append(stack.enter_context(tracker))

    processes.from_first(claim)
    saved = checkpoints.Checkpoints(workdir, checkpoints.Keep.of(settings))
    stack.enter_context(contextlib.closing(saved))
    writer = metrics.MetricsWriter(workdir, jax.process_index() == 0)
    stack.enter_context(contextlib.closing(writer))
    hooks = _Hooks(run, workdir, writer, trackers, agreement)
    return loop.train(run.setup, run.mesh, saved, settings, hooks)


@dataclasses.dataclass(frozen=True)
class _Run:
  """What a run works with, made of its settings and checked.

  Attributes:
    settings: the experiment.
    mesh: devices that share the work.
    puzzles: its data.
    setup: what defines the step.
    leaking: which held-out answers are trained on.
    chosen: held-out rows that are predicted while training.
  """

  settings: Settings
  mesh: Mesh
  puzzles: PuzzleSet
  setup: train_step.TrainSetup
  leaking: Verdict
  chosen: EvaluationRows


def _prepare(settings: Settings) -> _Run:
  """Makes all that a run needs besides its workdir.

  Raises:
    ConfigError, DataError: settings or data that cannot be used.
  """
  mesh = build.mesh(settings)
  platform = mesh.devices.flat[0].platform
  if settings.model.attention == 'pallas' and platform != 'tpu':
    raise ConfigError(
      f"model.attention='pallas' is for TPUs and would be interpreted on "
      f"{platform}; use 'auto'"
    )
  sharding.check_batch_size(
    mesh, settings.evaluation.batch_size, 'evaluation.batch_size'
  )
  puzzles = build.puzzle_set(settings)
  setup = build.train_setup(settings, puzzles)
  train_step.check_mesh(setup, mesh)
  leaking = build.check_leaks(settings, puzzles)
  if leaking.refused:
    raise ConfigError(leaking.refusal())
  chosen = build.held_out(settings, puzzles)
  return _Run(settings, mesh, puzzles, setup, leaking, chosen)


class _Hooks:
  """What the loop asks for and hands over; see `loop.Hooks`."""

  def __init__(
    self,
    run: _Run,
    workdir: pathlib.Path,
    writer: metrics.MetricsWriter,
    trackers: list[wandb_tracker.Tracker],
    agreement: preemption.Agreement,
  ):
    self._run, self._workdir = run, workdir
    self._sinks = (writer, *trackers)
    self.stop = agreement.poll
    self.forget = writer.forget_after
    self._predict = inference.sharded_predict(
      run.setup.model, run.setup.act, run.settings.evaluation.halting, run.mesh
    )

  def batches(self, position: int):
    settings = self._run.settings
    rows = sharding.local_rows(self._run.mesh, settings.batch_size)
    return self._run.puzzles.train_batches(
      settings.batch_size, settings.seed, position, rows
    )

  def position(self, number: int) -> checkpoints.Position:
    puzzles = self._run.puzzles
    return checkpoints.Position(
      number,
      puzzles.identifier_names(),
      puzzles.version,
      self._run.settings.batch_size,
    )

  def evaluate(self, state: TrainState) -> loop.Metrics | None:
    run = self._run
    result = evaluation.evaluate(
      run.puzzles,
      run.chosen,
      np.arange(run.puzzles.num_identifiers, dtype=np.int32),
      self._predict,
      *state.weights,
      run.settings.evaluation.batch_size,
      self.stop,
    )
    if result is None:
      return None
    logging.info('Held out: %s%s', result.summary(), run.leaking.note())
    return {**result.metrics, **run.leaking.metrics()}

  def write(self, step: int, line: loop.Metrics) -> None:
    for sink in self._sinks:
      sink.write(step, line)

  def report(self, batch: int, facts: dict[str, Any]) -> str:
    name = f'step_{facts["step"]}_batch_{batch}.json'
    path = self._workdir / 'divergence' / name
    if jax.process_index() == 0:
      path.parent.mkdir(exist_ok=True)
      files.write_json(path, facts)
    return str(path)
