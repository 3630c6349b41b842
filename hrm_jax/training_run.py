"""Trains a model; started again on the same workdir, it continues."""

import contextlib
import dataclasses
import math
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from absl import logging

from data_pipelines import files
from data_pipelines.batches import BLANK_IDENTIFIER, Batch
from data_pipelines.errors import Abandoned, ConfigError, first_line
from data_pipelines.puzzle_set import PuzzleSet
from hrm_jax import build, warm_start
from hrm_jax import solver as solvers
from hrm_jax.inference import evaluation, predict
from hrm_jax.models import kernel_check
from hrm_jax.models.attention import dispatch as attention
from hrm_jax.parallel import hardware, preemption, processes, sharding
from hrm_jax.settings import Settings
from hrm_jax.solver import Solver
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
  length: Callable[[float, float], int] | None = None,
) -> TrainState:
  """Trains, or continues, as the settings say; returns the last state.

  Args:
    settings: the experiment.
    workdir: directory of the run, made where it is missing.
    notice: when to save and stop; None for never.
    wandb: project of Weights & Biases that gets the metrics too, if any.
    profile: first and last step to trace, counted from 1, if any; the trace
      goes where TensorBoard finds it.
    length: gives the number of steps of a run that begins, at most that of the
      settings, from the seconds that the step takes to be compiled and those
      that it takes (see `Settings.of_length`); None for the settings' number.

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
  if length:
    settings = run.shorten(length)
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


def fit(
  settings: Settings, puzzles: PuzzleSet, solver: Solver,
  seconds: float | None = None,
) -> TrainState:  # fmt: skip
  """Trains a copy of a solver further on puzzles; nothing is written.

  Args:
    settings: the training, as `Solver.further` gives it.
    puzzles: what it is trained on.
    solver: whose weights it starts from.
    seconds: time that there is for all of it; None for no limit.

  Raises:
    ConfigError: the time is too short for a step, or the training diverged.
  """
  end = time.monotonic() + (math.inf if seconds is None else seconds)
  notice, kept = preemption.Notice(), _Kept()
  run = _Run(settings, None, notice, puzzles, solver)
  with contextlib.ExitStack() as stack:
    if seconds is not None:
      run.shorten(
        lambda compiling, step: int((end - time.monotonic() - compiling) / step)
      )
      name = f'seconds={seconds:g}'
      stack.enter_context(notice.after(end - time.monotonic(), name))
    with contextlib.suppress(loop.Preempted):
      loop.train(run, kept)
  if kept.state is None:
    raise ConfigError(f'seconds={seconds:g} are too short for a step; raise it')
  return kept.state


class _Kept(checkpoints.Checkpoints):
  """In place of checkpoints: the newest state, for a run without a workdir."""

  state: TrainState | None = None

  def __init__(self):
    pass

  def steps(self) -> list[int]:
    """None, so that what rolls back begins anew."""
    return []

  def save(self, state: TrainState, position: checkpoints.Position) -> None:
    del position
    self.state = state

  def wait(self) -> None:
    pass

  def check(self) -> None:
    pass


def _together(
  new: Iterator[Batch], old: Iterator[Batch], shift: int
) -> Iterator[Batch]:
  """Batches of two sets, the identifiers of the second one after the first's.

  The blank one is the same.
  """
  for first, second in zip(new, old, strict=True):
    own = second['puzzle_identifiers']
    own = np.where(own == BLANK_IDENTIFIER, own, own + shift)
    second = {**second, 'puzzle_identifiers': own}
    yield {name: np.concatenate([first[name], second[name]]) for name in first}


# Time in which steps are timed, after the one that compiles and another one.
_TIMED_SECONDS = 1.0


class _Run:
  """What a run works with, checked, and what its loop calls (`loop.Run`).

  `writer` and `held` are set, and there may be trackers, once the workdir is
  claimed. Without a workdir nothing is written; then `puzzles` are trained on,
  from the weights of `solver`.
  """

  writer: metrics.MetricsWriter | None = None
  profile: Profile | None = None

  def __init__(
    self, settings: Settings, workdir: pathlib.Path | None,
    notice: preemption.Notice, puzzles: PuzzleSet | None = None,
    solver: Solver | None = None,
  ):  # fmt: skip
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
    self.puzzles = puzzles or build.puzzle_set(settings)
    setup = build.train_setup(settings, self.puzzles)
    # Tasks that the model knows, which have a part of each batch.
    self._old: PuzzleSet | None = None
    self._names = self.puzzles.identifier_names()
    if settings.old_share:
      solver = solver or solvers.load(settings.start_from)
      self._old, own = solver.puzzles, getattr(self.puzzles, 'tasks', ())
      # Of a task that is in both sets, the rows here are those of the new one.
      others = solvers.names_without(
        {task.name for task in own}, self._old.identifier_names(), '<copy>'
      )
      self._names = [*self._names, *others[1:]]
      setup = dataclasses.replace(
        setup, num_puzzle_identifiers=len(self._names)
      )
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
    if settings.start_from and not (
      workdir and checkpoints.Checkpoints(workdir).steps()
    ):
      self._warm_start = warm_start.prepare(
        settings, setup, self.puzzles, self._names, self.mesh, solver
      )
    model, self.attention = kernel_check.settled(setup.model, self.mesh)
    logging.info('Attention: %s', self.attention)
    self.setup = dataclasses.replace(setup, model=model)
    self._predict = predict.sharded_predict(
      self.setup.model, self.setup.act, settings.evaluation.halting, self.mesh
    )

  def shorten(self, length: Callable[[float, float], int]) -> Settings:
    """Sets the number of steps that `length` gives, and returns the settings.

    Raises:
      ConfigError: there is no time for a step.
    """
    state = self.start(step.sharded_init(self.setup, self.mesh))
    # As the program of the training, whose length is not known yet, no cache
    # knows this one: what it takes to be compiled is told by the clock.
    odd = processes.from_first(lambda: time.time_ns() % 10**6)
    timed = dataclasses.replace(self.setup, total_steps=10**6 + odd)
    take = step.sharded_step(timed, self.mesh)
    batches = self.batches(0)

    def seconds(count):
      nonlocal state
      begin = time.monotonic()
      for _ in range(count):
        batch = loop.batch_of_call(self.mesh, [next(batches)])
        state, told, _ = take(state, batch)
        jax.block_until_ready(told)
      return time.monotonic() - begin

    first, one = seconds(1), seconds(1)
    compiling = first - one
    if more := processes.from_first(lambda: min(20, int(_TIMED_SECONDS / one))):
      one = (one + seconds(more)) / (1 + more)
    # Of the first process, as each has its own clock.
    steps = processes.from_first(lambda: max(0, length(compiling, one)))
    if not steps:
      raise ConfigError(
        f'the limit of time is too short for a training step, which takes '
        f'{one:.2g} s, and {compiling:.0f} s to be compiled; raise --seconds'
      )
    steps = min(steps, self.setup.total_steps)
    self.settings = self.settings.of_length(steps)
    self.setup = dataclasses.replace(
      self.setup, total_steps=steps, optimizer=self.settings.optimizer
    )
    logging.info(
      'A step takes %.2g s, compilation %.0f s: %d steps', one, compiling, steps
    )
    return self.settings

  def stop(self) -> bool:
    self.held()
    return self._asked()

  def start(self, fresh: TrainState) -> TrainState:
    return self._warm_start(fresh) if self._warm_start else fresh

  def batches(self, position: int):
    size, seed = self.settings.batch_size, self.settings.seed
    rows = sharding.local_rows(self.mesh, size)
    old = round(self.settings.old_share * size)
    if not self._old or not old:
      return self.puzzles.train_batches(size, seed, position, rows)
    # The first rows of a batch are new tasks', the others old ones'.
    first = size - old
    begin, end = (max(0, bound - first) for bound in (rows.start, rows.stop))
    own = slice(min(rows.start, first), min(rows.stop, first))
    return _together(
      self.puzzles.train_batches(first, seed, position, own),
      self._old.train_batches(old, seed, position, slice(begin, end)),
      self.puzzles.num_identifiers - 1,
    )

  def position(self, number: int) -> checkpoints.Position:
    version, rows = self.puzzles.version, self.settings.batch_size
    return checkpoints.Position(number, self._names, version, rows)

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
    if self.writer:
      self.writer.write(step, line)
    for tracker in self.trackers:
      tracker.write(step, line)

  def sync(self) -> None:
    if self.writer:
      self.writer.sync()

  def forget(self, step: int, lines: int) -> int:
    if not (writer := self.writer):
      return lines
    return processes.from_first(lambda: writer.forget_after(step, lines))

  def evaluation_of(self, step: int) -> loop.Metrics | None:
    return self.writer.evaluation_of(step) if self.writer else None

  def report(self, batch: int, facts: dict[str, Any]) -> str:
    if not self._workdir:
      return f'its puzzles, {facts["puzzles"]}'
    name = f'step_{facts["step"]}_batch_{batch}.json'
    path = self._workdir / 'divergence' / name
    if jax.process_index() == 0:
      path.parent.mkdir(exist_ok=True)
      files.write_json(path, facts)
    return str(path)
