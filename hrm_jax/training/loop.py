"""The training loop, over any source of batches."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import jax
import numpy as np
from absl import logging
from jax.sharding import Mesh

from data_pipelines.errors import ConfigError
from hrm_jax.parallel import sharding
from hrm_jax.settings import Settings
from hrm_jax.training import act, divergence, flops
from hrm_jax.training import step as train_step
from hrm_jax.training.metrics_log import Metrics, MetricsLog, Record, due
from hrm_jax.training.profile import Profile
from hrm_jax.training.state import Position, TrainState, count_parameters

if TYPE_CHECKING:
  from hrm_jax.workdir.checkpoints import Checkpoints


class Preempted(Exception):
  """Training was asked to stop; its state is saved, if there was a new one."""

  def __init__(self, step: int):
    super().__init__(f'stopped at step {step}')
    self.step = step


class Run(Protocol):
  """What the loop works with and calls; it knows neither files nor puzzles."""

  settings: Settings
  mesh: Mesh
  setup: train_step.TrainSetup
  profile: Profile | None

  def batches(self, position: int) -> Iterator[act.Batch]:
    """This process's rows of all batches from a position on."""

  def position(self, number: int) -> Position:
    """Gives what is saved beside the state at a data position."""

  def start(self, fresh: TrainState) -> TrainState:
    """The state of the first step, given a fresh one."""

  def evaluate(self, state: TrainState) -> Metrics | None:
    """Metrics of the held-out puzzles; None where `stop` ended it early."""

  def write(self, step: int, line: Metrics) -> None:
    """Writes a line of metrics."""

  def sync(self) -> None:
    """Makes sure that all lines are kept: a checkpoint counts on them."""

  def forget(self, step: int, lines: int) -> int:
    """Keeps the lines up to a step, so many; returns how many there are."""

  def evaluation_of(self, step: int) -> Metrics | None:
    """The line of a step's evaluation, if there is one."""

  def report(self, batch: int, facts: dict[str, Any]) -> str:
    """Writes down what is known of a step that diverged; returns where."""

  def stop(self) -> bool:
    """Whether to save and end; asked once a step, in all processes alike."""


class _Start(NamedTuple):
  state: TrainState
  data_position: int
  record: Record


class _RollBack(Exception):
  """A step diverged: go back, and on from a data position, with a message."""


def train(run: Run, saved: 'Checkpoints') -> TrainState:
  """Trains from the newest checkpoint, or from the start, to the end.

  Raises:
    Preempted: `run.stop` said so; the state is saved.
    ConfigError: the workdir's checkpoints cannot be gone on with, or the run
      diverged; what was saved stays as it is.
  """
  setup, mesh, stop_at = run.setup, run.mesh, run.settings.stop_at_step
  start = _start(run, saved)
  counts = count_parameters(start.state, setup.num_puzzle_identifiers)
  overview = ', '.join(f'{name} {count:,}' for name, count in counts.items())
  logging.info('Parameters: %s', overview)
  functions: dict[int, train_step.StepFunction] = {
    count: train_step.sharded_step(setup, mesh, count)
    for count in (1, run.settings.steps_per_call)
  }
  first = int(start.state.step)
  end = min(setup.total_steps, stop_at or setup.total_steps)
  if first < end:
    logging.info(
      'Training steps %d to %d on %d × %s%s, batch size %d',
      first, end, mesh.size, mesh.devices.flat[0].device_kind,
      sharding.describe(mesh), setup.batch_size,
    )  # fmt: skip
  back_to, times = None, 0
  while True:
    try:
      return _run(start, end, functions, run, saved)
    except _RollBack as back:
      data_position, message = back.args
    saved.wait()
    start = _start(run, saved)
    step = int(start.state.step)
    times = times + 1 if step == back_to else 1
    if times > setup.divergence.limit:
      raise ConfigError(
        f'{message}; rolled back to step {step} {times - 1} times already '
        '(divergence.limit): lower the learning rates'
      )
    back_to = step
    start = start._replace(data_position=data_position)
    logging.warning(
      '%s; rolled back to step %d, on with batch %d', message, step,
      data_position,
    )  # fmt: skip


def _run(
  start: _Start,
  end: int,
  functions: dict[int, train_step.StepFunction],
  run: Run,
  saved: 'Checkpoints',
) -> TrainState:
  """The loop, as long as no step makes it roll back.

  The order at step i is: evaluate, save, stop if asked, draw batch i, dispatch
  the step, then write the metrics of step i - 1 while step i computes; or all
  that of several steps, which one of `functions` by their number takes at once.
  All that is saved or evaluated comes after steps that are known to be healthy.
  """
  state, position, record = start
  first, settings = int(state.step), run.settings
  step = first
  diverged = functools.partial(_diverged, run, record)
  seconds = flops.full_rate_seconds(run.setup, run.mesh)
  log = MetricsLog(settings, record, end, run.write, diverged, seconds)
  batches = run.batches(position)
  while True:
    stop = run.stop()
    last = step >= min(end, log.enough) or _good_enough(record, settings)
    # Until it is made: the next start will make it where this one is stopped.
    evaluate = due(step, settings.evaluate_every)
    evaluate &= 0 < step != record.evaluated
    save = stop or last or due(step, settings.checkpoint_every)
    if evaluate or save:
      log.catch_up()
    if last and step > first:
      log.finish()
    if evaluate and not stop:
      with log.clock_stopped():
        found = run.evaluate(state)
      if found is None:
        save = stop = True
      else:
        log.write(step, found)
        record.evaluated = step
        evaluate = False
        save |= _is_best(step, found, settings, record)
        if not last and _good_enough(record, settings):
          last = save = True
          if step > first:
            log.finish()
    if save and step > first:
      fields = dataclasses.asdict(record)
      scores = tuple(map(tuple, fields.pop('scores')))
      known = run.position(position)
      run.sync()
      saved.save(state, known._replace(scores=scores, loop=fields))
    if last and not evaluate:
      if step == first:
        logging.info('Step %d is done: nothing to train', step)
      return state
    if stop:
      raise Preempted(step)
    saved.check()
    if run.profile and step in run.profile.bounds:
      log.catch_up()
      run.profile.at(step)
    count = _steps_of_call(step, end, settings, run.profile)
    drawn = [next(batches) for _ in range(count)]
    with jax.profiler.StepTraceAnnotation('train', step_num=step + 1):
      batch = batch_of_call(run.mesh, drawn)
      state, metrics, diagnosis = functions[count](state, batch)
    log.add(step + 1, position, metrics, diagnosis)
    step, position = step + count, position + count
    del metrics, diagnosis


def batch_of_call(mesh: Mesh, drawn: Sequence[act.Batch]) -> act.Batch:
  """What a call takes, on the devices: a batch, or several, stacked."""
  if len(drawn) == 1:
    return sharding.global_batch(mesh, drawn[0])
  rows = {name: np.stack([batch[name] for batch in drawn]) for name in drawn[0]}
  return sharding.global_batch(mesh, rows, stacked=True)


def _steps_of_call(
  step: int, end: int, settings: Settings, profile: Profile | None
) -> int:
  """Steps of the call at a step: one, where more would pass what is due.

  So are those that are traced, each with its mark.
  """
  # A line's accuracy is known one call later, and may end the training then.
  lines = settings.log_every if settings.stop_at_accuracy else 0
  for i in range(step + 1, step + settings.steps_per_call):
    if (
      i >= end
      or due(i, settings.evaluate_every)
      or due(i, settings.checkpoint_every)
      or due(i, lines)
      or due(i - 1, lines)
      or (profile and profile.bounds[0] <= i <= profile.bounds[1])
    ):
      return 1
  return settings.steps_per_call


def _diverged(
  run: Run,
  record: Record,
  step: int,
  batch: int,
  diagnosis: divergence.Diagnosis,
) -> None:
  """Writes down what is known, and does what the settings ask for."""
  wanted = run.settings.divergence
  names = run.position(batch).identifier_names
  facts = divergence.report(diagnosis, names)
  facts |= {'step': step, 'batch': batch, 'policy': wanted.policy}
  path = run.report(batch, facts)
  message = f'step {step} diverged: {facts["reason"]}; see {path}'
  if wanted.policy == 'rollback':
    raise _RollBack(batch + 1, message)
  if wanted.policy == 'stop':
    raise ConfigError(
      f'{message}; nothing of it is saved: lower the learning rates, or go on '
      "with --config.divergence.policy=skip or 'rollback'"
    )
  if record.skipped_in_a_row > wanted.limit:
    raise ConfigError(
      f'{message}; {wanted.limit} updates before it were skipped too '
      '(divergence.limit): lower the learning rates'
    )
  logging.warning('%s; its update is skipped', message)


def _is_best(
  step: int, metrics: Metrics, settings: Settings, record: Record
) -> bool:
  """Notes an evaluation's score; whether it is to be saved as the best."""
  name = f'eval/{settings.best_metric}'
  if not settings.scored or name not in metrics:
    return False
  score = float(metrics[name])
  best = all(score > other for _, other in record.scores)
  record.scores.append((step, score))
  if best:
    logging.info('Best so far: %s %.4f, of step %d', name, score, step)
  return best and settings.keep_best > 0


def _good_enough(record: Record, settings: Settings) -> bool:
  """Whether an evaluation had the score that ends the training."""
  wanted = settings.stop_at_score
  return wanted > 0 and any(score >= wanted for _, score in record.scores)


def _start(run: Run, saved: 'Checkpoints') -> _Start:
  """The newest checkpoint's state, data position and record, or new ones."""
  setup, mesh = run.setup, run.mesh
  if not saved.steps():
    run.forget(0, 0)
    fresh = train_step.sharded_init(setup, mesh)
    return _Start(run.start(fresh), 0, Record())
  step = saved.find()
  position = saved.position(step)
  expected = run.position(position.data_position)
  if position.identifier_names != expected.identifier_names:
    raise ConfigError(
      f'{saved.directory}: step {step} was trained on other puzzles or '
      'augmentations than the data gives now; train in another --workdir'
    )
  like = train_step.abstract_state(setup, mesh)
  number = position.data_position
  theirs, ours = position.batch_size, setup.batch_size
  same = theirs == ours
  state = saved.restore(step, like if same else like.replace(carry=None))
  if not same:
    state = state.replace(carry=train_step.sharded_carry(setup, mesh))
    number = -(-number * theirs // ours)
    logging.warning(
      'batch_size was %d and is %d now: the puzzles at work are started anew, '
      'with batch %d',
      theirs, ours, number,
    )  # fmt: skip
  record = Record(**position.loop or {}, scores=list(position.scores))
  record.lines = run.forget(step, record.lines)
  # A start that ended here may have made it after the checkpoint.
  if record.evaluated < step and (metrics := run.evaluation_of(step)):
    record.evaluated = step
    _is_best(step, metrics, run.settings, record)
  return _Start(state, number, record)
