"""Trains a model; started again on the same workdir, it continues."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from absl import logging

from data_pipelines import files
from data_pipelines.errors import Abandoned, ConfigError, first_line
from hrm_jax import build, warm_start
from hrm_jax.inference import evaluation, predict
from hrm_jax.models import kernel_check
from hrm_jax.models.attention import dispatch as attention
from hrm_jax.parallel import hardware, preemption, processes, sharding
from hrm_jax.settings import Settings
from hrm_jax.training import flops, loop, step
from hrm_jax.training.profile import Profile
from hrm_jax.training.state import TrainState
from hrm_jax.workdir import checkpoints, config, lock, metrics
from hrm_jax.workdir import weights_and_biases as wandb_tracker


def train(
  settings: Settings,
  workdir: str | pathlib.Path,
  notice: preemption.Notice | None = None,
  wandb: str | None = None,
  profile: tuple[int, int] | None = None,
) -> TrainState:
  """Trains, or continues, as the settings say; returns the last state.

  Args:
    settings: the experiment.
    workdir: directory of the run, made where it is missing.
    notice: when to save and stop; None for never.
    wandb: project of Weights & Biases that gets the metrics too, if any.
    profile: first and last step to trace, counted from 1, if any; the trace
      goes where TensorBoard finds it.

  Raises:
    ConfigError, DataError: settings, data or workdir that cannot be used, and
      then nothing has been written; or training that cannot continue.
    training.loop.Preempted: `notice` was given; the state is saved.
  """
  workdir = config.place(workdir)
  # All that can be wrong is looked at before anything is written.
  if wandb:
    wandb_tracker.check()
  run = _Run(settings, workdir, notice or preemption.Notice())
  with contextlib.ExitStack() as stack:
    if profile:
      run.profile = Profile(*profile, workdir / 'tensorboard')
      saved_steps = checkpoints.Checkpoints(workdir).steps()
      end = settings.stop_at_step or run.setup.total_steps
      run.profile.check(max(saved_steps, default=0), end)
      stack.enter_context(contextlib.closing(run.profile))

    def claim():
      run.held = stack.enter_context(lock.hold(workdir))
      config.claim(
        workdir, settings, run.puzzles, run.leaking,
        attention=run.attention,
        step_flops=flops.ideal_step_flops(run.setup),
      )  # fmt: skip
      if wandb:
        tracker = wandb_tracker.Tracker(wandb, workdir, settings.to_dict())
        run.trackers.append(stack.enter_context(tracker))

    processes.from_first(claim)
    saved = checkpoints.Checkpoints(workdir, settings, run.held)
    stack.enter_context(contextlib.closing(saved))
    run.writer = metrics.MetricsWriter(workdir, jax.process_index() == 0)
    stack.enter_context(run.writer)
    try:
      return loop.train(run, saved)
    except Abandoned:
      saved.abandon()
      raise
    except jax.errors.JaxRuntimeError as error:
      several, reason = jax.process_count() > 1, first_line(error)
      if 'RESOURCE_EXHAUSTED' in reason:
        message = (
          f'the memory of a device does not suffice ({reason}); raise '
          'microbatches, lower batch_size or share the batch among more devices'
        )
      elif several:
        message = f'another process of this run cannot be reached ({reason})'
      else:
        raise
      message += '; the same command continues from the newest checkpoint'
      raise (Abandoned if several else ConfigError)(message) from None


class _Run:
  """What a run works with, checked, and what its loop calls (`loop.Run`).

  `writer` and `held` are set, and there may be trackers, once the workdir is
  claimed.
  """

  writer: metrics.MetricsWriter
  profile: Profile | None = None

  def __init__(
    self, settings: Settings, workdir: pathlib.Path, notice: preemption.Notice
  ):
    self.settings, self._workdir = settings, workdir
    self.held: Callable[[], None] = lambda: None
    self.trackers: list[wandb_tracker.Tracker] = []
    self.mesh = build.mesh(settings)
    self._asked = preemption.Agreement(notice, self.mesh).poll
    device = self.mesh.devices.flat[0]
    if note := hardware.slowness(device, settings.model.dtype):
      logging.warning('%s', note)
    # What it refuses can be told before the data are read.
    attention.resolved(settings.model, device)
    evaluation_rows = settings.evaluation.batch_size
    sharding.check_batch_size(
      self.mesh, evaluation_rows, 'evaluation.batch_size'
    )
    self.puzzles = build.puzzle_set(settings)
    setup = build.train_setup(settings, self.puzzles)
    step.check_mesh(setup, self.mesh)
    self.leaking = build.check_leaks(settings, self.puzzles)
    if self.leaking.refused:
      raise ConfigError(self.leaking.refusal())
    self._chosen = build.held_out(settings, self.puzzles)
    best = f'eval/{settings.best_metric}'
    if settings.scored:
      names = evaluation.metric_names(self.puzzles, self._chosen)
      if best not in names | self.leaking.metrics().keys():
        known = ', '.join(sorted(n.removeprefix('eval/') for n in names))
        raise ConfigError(
          f'best_metric={settings.best_metric!r} is none of the metrics of '
          f'these puzzles; use one of {known}'
        )
    self._warm_start: warm_start.WarmStart | None = None
    if settings.start_from and not checkpoints.Checkpoints(workdir).steps():
      self._warm_start = warm_start.prepare(
        settings, setup, self.puzzles, self.mesh
      )
    model, self.attention = kernel_check.settled(setup.model, self.mesh)
    logging.info('Attention: %s', self.attention)
    self.setup = dataclasses.replace(setup, model=model)
    self._predict = predict.sharded_predict(
      self.setup.model, self.setup.act, settings.evaluation.halting, self.mesh
    )

  def stop(self) -> bool:
    self.held()
    return self._asked()

  def start(self, fresh: TrainState) -> TrainState:
    return self._warm_start(fresh) if self._warm_start else fresh

  def batches(self, position: int):
    size, seed = self.settings.batch_size, self.settings.seed
    rows = sharding.local_rows(self.mesh, size)
    return self.puzzles.train_batches(size, seed, position, rows)

  def position(self, number: int) -> checkpoints.Position:
    names, version = self.puzzles.identifier_names(), self.puzzles.version
    rows = self.settings.batch_size
    return checkpoints.Position(number, names, version, rows)

  def evaluate(self, state: TrainState) -> loop.Metrics | None:
    rows = np.arange(self.puzzles.num_identifiers, dtype=np.int32)
    query = evaluation.Query(self.puzzles, self._chosen, rows, *state.weights)
    size = self.settings.evaluation.batch_size
    try:
      result = evaluation.evaluate(query, self._predict, size, self.stop)
    except evaluation.Stopped:
      return None
    logging.info('Held out: %s%s', result.summary(), self.leaking.note())
    return {**result.metrics, **self.leaking.metrics()}

  def write(self, step: int, line: loop.Metrics) -> None:
    self.writer.write(step, line)
    for tracker in self.trackers:
      tracker.write(step, line)

  def sync(self) -> None:
    self.writer.sync()

  def forget(self, step: int, lines: int) -> int:
    return processes.from_first(lambda: self.writer.forget_after(step, lines))

  def evaluation_of(self, step: int) -> loop.Metrics | None:
    return self.writer.evaluation_of(step)

  def report(self, batch: int, facts: dict[str, Any]) -> str:
    name = f'step_{facts["step"]}_batch_{batch}.json'
    path = self._workdir / 'divergence' / name
    if jax.process_index() == 0:
      path.parent.mkdir(exist_ok=True)
      files.write_json(path, facts)
    return str(path)
