"""The training loop, over any source of batches."""

import dataclasses
import functools
import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

from absl import logging
from jax.sharding import Mesh

from data_pipelines.errors import ConfigError
from hrm_jax.parallel import sharding
from hrm_jax.settings import Settings
from hrm_jax.training import act, divergence
from hrm_jax.training import step as train_step
from hrm_jax.training.metrics_log import Metrics, MetricsLog, Record, due
from hrm_jax.training.state import Position, TrainState, count_parameters


class Preempted(Exception):
  """Training was asked to stop; its state is saved, if there was a new one."""

  def __init__(self, step: int):
    super().__init__(f'stopped at step {step}')
    self.step = step


class Hooks(Protocol):
  """What the loop calls; the library knows neither files nor puzzles."""

  def batches(self, position: int) -> Iterator[act.Batch]:
    """This process's rows of all batches from a position on."""

  def position(self, number: int) -> Position:
    """Gives what is saved beside the state at a data position."""

  def evaluate(self, state: TrainState) -> Metrics | None:
    """Metrics of the held-out puzzles; None where `stop` ended it early."""

  def write(self, step: int, line: Metrics) -> None:
    """Writes a line of metrics."""

  def forget(self, lines: int) -> int:
    """Keeps the first so many lines; returns how many there are."""

  def report(self, batch: int, facts: dict[str, Any]) -> str:
    """Writes down what is known of a step that diverged; returns where."""

  def stop(self) -> bool:
    """Whether to save and end; asked once a step, in all processes alike."""


class Saved(Protocol):
  """The checkpoints of a run, see `hrm_jax.workdir.checkpoints`."""

  directory: Any

  def steps(self) -> list[int]:
    """Steps at which a checkpoint was finished, ascending."""

  def find(self) -> int:
    """The step of the newest whole checkpoint."""

  def position(self, step: int) -> Position:
    """Takes what was saved beside the state."""

  def restore(self, step: int, like: TrainState) -> TrainState:
    """The state that was saved, placed as `like` says."""

  def save(self, state: TrainState, position: Position) -> None:
    """Saves a state in the background."""

  def amend(self, step: int, position: Position) -> None:
    """Replaces what stands beside a state that is saved already."""

  def check(self) -> None:
    """Raises a ConfigError if saving has failed in the background."""

  def wait(self) -> None:
    """Waits until all is saved."""


class _Start(NamedTuple):
  """Where the loop continues."""

  state: TrainState
  data_position: int
  record: Record


class _RollBack(Exception):
  """A step diverged; go back, and on with other data."""

  def __init__(self, data_position: int, message: str):
    super().__init__(message)
    self.data_position = data_position


def train(
  setup: train_step.TrainSetup,
  mesh: Mesh,
  saved: Saved,
  settings: Settings,
  hooks: Hooks,
) -> TrainState:
  """Trains from the newest checkpoint, or from the start, to the end.

  Raises:
    Preempted: `hooks.stop` said so; the state is saved.
    ConfigError: the workdir's checkpoints cannot be gone on with, or the run
      diverged; what was saved stays as it is.
  """
  start = _start(setup, mesh, saved, hooks)
  logging.info('Parameters: %s', _overview(setup, start.state))
  step_function = train_step.sharded_step(setup, mesh)
  first = int(start.state.step)
  end = setup.total_steps
  if settings.stop_at_step:
    end = min(end, settings.stop_at_step)
  if first < end:
    logging.info(
      'Training steps %d to %d on %d × %s%s, batch size %d',
      first, end, mesh.size, mesh.devices.flat[0].device_kind,
      sharding.describe(mesh), setup.batch_size,
    )  # fmt: skip
  back_to, times = None, 0
  while True:
    try:
      return _run(
        start, end, step_function, setup, mesh, saved, settings, hooks
      )
    except _RollBack as back:
      message, data_position = str(back), back.data_position
    saved.wait()
    start = _start(setup, mesh, saved, hooks)
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
  step_function: train_step.StepFunction,
  setup: train_step.TrainSetup,
  mesh: Mesh,
  saved: Saved,
  settings: Settings,
  hooks: Hooks,
) -> TrainState:
  """The loop, as long as no step makes it roll back.

  The order at step i is: evaluate, save, stop if asked, draw batch i, dispatch
  the step, then write the metrics of step i - 1 while step i computes. All that
  is saved or evaluated comes after steps that are known to be healthy.
  """
  state, position, record = start
  first = int(state.step)
  log = MetricsLog(
    settings,
    record,
    end,
    hooks.write,
    functools.partial(_diverged, settings, hooks, record),
  )
  batches = hooks.batches(position)
  for step in itertools.count(first):
    stop = hooks.stop()
    last = step >= min(end, log.enough)
    # Until it is made: the next start will make it where this one is stopped.
    evaluate = 0 < step != record.evaluated and due(
      step, settings.evaluate_every
    )
    save = stop or last or due(step, settings.checkpoint_every)
    if evaluate or save:
      log.catch_up()
    if last and step > first:
      log.finish()
    if evaluate and not stop:
      with log.clock_stopped():
        metrics = hooks.evaluate(state)
      if metrics is None:
        save = stop = True
      else:
        log.write(step, metrics)
        record.evaluated = step
        evaluate = False
        save |= _is_best(step, metrics, settings, record)
        if step == first:
          # The state is saved already; so that no start repeats this.
          saved.amend(step, _with_record(hooks.position(position), record))
    if save and step > first:
      saved.save(state, _with_record(hooks.position(position), record))
    if last and not evaluate:
      if step == first:
        logging.info('Step %d is done: nothing to train', step)
      return state
    if stop:
      raise Preempted(step)
    saved.check()
    batch = sharding.global_batch(mesh, next(batches))
    state, metrics, diagnosis = step_function(state, batch)
    log.add(step + 1, position, metrics, diagnosis)
    position += 1
    del metrics, diagnosis


def _with_record(position: Position, record: Record) -> Position:
  """The position with all that the loop has to remember."""
  loop = dataclasses.asdict(record)
  scores = tuple(loop.pop('scores'))
  return position._replace(scores=scores, loop=loop)


def _diverged(
  settings: Settings,
  hooks: Hooks,
  record: Record,
  step: int,
  batch: int,
  diagnosis: divergence.Diagnosis,
) -> None:
  """Writes down what is known, and does what the settings ask for.

  Raises:
    ConfigError: the run ends.
    _RollBack: the run continues from its last checkpoint.
  """
  wanted = settings.divergence
  names = hooks.position(batch).identifier_names
  facts = divergence.report(diagnosis, names) | {
    'step': step,
    'batch': batch,
    'policy': wanted.policy,
  }
  path = hooks.report(batch, facts)
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
  if not settings.keep_best:
    return False
  name = f'eval/{settings.best_metric}'
  if name not in metrics:
    logging.warning(
      "The best are not kept: best_metric '%s' is none of %s",
      settings.best_metric,
      ', '.join(sorted(key.removeprefix('eval/') for key in metrics)),
    )
    return False
  score = float(metrics[name])
  best = all(score > other for _, other in record.scores)
  record.scores.append((step, score))
  if best:
    logging.info('Best so far: %s %.4f, of step %d', name, score, step)
  return best


def _start(
  setup: train_step.TrainSetup,
  mesh: Mesh,
  saved: Saved,
  hooks: Hooks,
) -> _Start:
  """The newest whole checkpoint's state, data position and record, or new ones.

  Raises:
    ConfigError: the rows of its puzzle table belong to other puzzles.
  """
  if not saved.steps():
    hooks.forget(0)
    return _Start(train_step.sharded_init(setup, mesh), 0, Record())
  step = saved.find()
  position = saved.position(step)
  expected = hooks.position(position.data_position)
  if position.identifier_names != expected.identifier_names:
    raise ConfigError(
      f'{saved.directory}: step {step} was trained on other puzzles or '
      'augmentations than the data gives now; train in another --workdir'
    )
  like = train_step.abstract_state(setup, mesh)
  number, theirs, ours = (
    position.data_position, position.batch_size, setup.batch_size
  )  # fmt: skip
  if theirs == ours:
    state = saved.restore(step, like)
  else:
    state = saved.restore(step, like.replace(carry=None))
    state = state.replace(carry=train_step.sharded_carry(setup, mesh))
    number = -(-number * theirs // ours)
    logging.warning(
      'batch_size was %d and is %d now: the puzzles at work are started anew, '
      'with batch %d',
      theirs, ours, number,
    )  # fmt: skip
  record = Record(**position.loop)
  record.scores = list(position.scores)
  record.lines = hooks.forget(record.lines)
  return _Start(state, number, record)


def _overview(setup: train_step.TrainSetup, state: TrainState) -> str:
  counts = count_parameters(state, setup.num_puzzle_identifiers)
  return ', '.join(f'{name} {count:,}' for name, count in counts.items())
