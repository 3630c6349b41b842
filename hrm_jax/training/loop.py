"""The training loop, over any source of batches."""

import contextlib
import dataclasses
import datetime
import itertools
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import chex
import jax
from absl import logging
from jax.sharding import Mesh

from data_pipelines.errors import ConfigError
from hrm_jax.parallel import sharding
from hrm_jax.settings import Settings
from hrm_jax.training import act, divergence
from hrm_jax.training import step as train_step
from hrm_jax.training.state import TrainState, count_parameters
from hrm_jax.workdir import checkpoints

Metrics = dict[str, float]


class Preempted(Exception):
  """Training was asked to stop; its state is saved, if there was a new one."""

  def __init__(self, step: int):
    super().__init__(f'stopped at step {step}')
    self.step = step


@dataclasses.dataclass(frozen=True)
class Hooks:
  """What the loop calls; the library knows neither files nor puzzles.

  Attributes:
    batches: this process's rows of all batches from a position on.
    position: what to save beside the state at a data position.
    evaluate: metrics of a state; None where `stop` ended it early.
    write: takes a step and its metrics, a line.
    forget: goes back to the first so many lines; says how many there are.
    report: writes down what is known of a step that diverged, by the number of
      its batch, and says where.
    stop: whether to save and end; called once a step, in all processes alike.
  """

  batches: Callable[[int], Iterator[act.Batch]]
  position: Callable[[int], checkpoints.Position]
  evaluate: Callable[[TrainState], Metrics | None]
  write: Callable[[int, Metrics], None]
  forget: Callable[[int], int]
  report: Callable[[int, dict[str, Any]], str]
  stop: Callable[[], bool]


@dataclasses.dataclass
class _Record:
  """What the loop remembers, besides the state, so as to go on exactly.

  Attributes:
    lines: of metrics, written so far.
    sums: of the metrics of the window that the next line is about.
    steps: in that window, healthy ones.
    rows: of these steps.
    skipped: steps in that window whose update was not applied.
    skipped_in_a_row: such steps up to now.
    accuracy: last window's end and its share of exactly solved puzzles.
    evaluated: step of the last evaluation.
    scores: of all evaluations.
  """

  lines: int = 0
  sums: dict[str, float] = dataclasses.field(default_factory=dict)
  steps: int = 0
  rows: int = 0
  skipped: int = 0
  skipped_in_a_row: int = 0
  accuracy: tuple[int, float] = (0, 0.0)
  evaluated: int = 0
  scores: list[tuple[int, float]] = dataclasses.field(default_factory=list)


class _Start(NamedTuple):
  """From where the loop goes on."""

  state: TrainState
  data_position: int
  record: _Record


class _RollBack(Exception):
  """A step diverged; go back, and on with other data."""

  def __init__(self, data_position: int, message: str):
    super().__init__(message)
    self.data_position = data_position


def train(
  setup: train_step.TrainSetup,
  mesh: Mesh,
  saved: checkpoints.Checkpoints,
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
  saved: checkpoints.Checkpoints,
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
  log = _MetricsLog(setup, settings, hooks, record, end)
  batches = hooks.batches(position)
  for step in itertools.count(first):
    stop = hooks.stop()
    last = step >= min(end, log.enough)
    # Until it is made: the next start will make it where this one is stopped.
    evaluate = 0 < step != record.evaluated and _due(
      step, settings.evaluate_every
    )
    save = stop or last or _due(step, settings.checkpoint_every)
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
    if save and step > first:
      loop = dataclasses.asdict(record)
      scores = tuple(loop.pop('scores'))
      saved.save(
        state, hooks.position(position)._replace(scores=scores, loop=loop)
      )
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


def _is_best(
  step: int, metrics: Metrics, settings: Settings, record: _Record
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


class _MetricsLog:
  """Sums metrics over windows of steps and writes them, one step late.

  The metrics of a step are fetched when the next one has been dispatched, so
  that the device never waits for the log. A window does not end where a
  checkpoint is made, whose record holds its sums: so the lines are the same
  however often the run is stopped.

  Attributes:
    enough: step to end at, as the training accuracy was reached.
  """

  def __init__(
    self,
    setup: train_step.TrainSetup,
    settings: Settings,
    hooks: Hooks,
    record: _Record,
    end: int,
  ):
    self._setup, self._settings, self._hooks = setup, settings, hooks
    self._record, self._end = record, end
    self._pending = None
    self._last = 0
    # Of the time since the first step, which compiles.
    self._since, self._timed = None, 0
    self.enough = math.inf
    self._look_at_accuracy()

  def add(
    self,
    step: int,
    position: int,
    metrics: dict[str, chex.Array],
    diagnosis: divergence.Diagnosis,
  ) -> None:
    """Takes what a step just dispatched, on batch `position`, gives."""
    pending, self._pending = self._pending, (step, position, metrics, diagnosis)
    if pending is not None:
      self._fetch(*pending)

  def catch_up(self) -> None:
    """Takes in all that has been added."""
    if self._pending is not None:
      pending, self._pending = self._pending, None
      self._fetch(*pending)

  def finish(self) -> None:
    """Writes a line of the steps that do not fill a window."""
    if self._record.steps or self._record.skipped:
      self._emit()

  def write(self, step: int, metrics: Metrics) -> None:
    """Writes a line."""
    self._hooks.write(step, metrics)
    self._record.lines += 1

  @contextlib.contextmanager
  def clock_stopped(self):
    """Keeps a pause out of the speed and the time left."""
    begin = time.monotonic()
    yield
    if self._since is not None:
      self._since += time.monotonic() - begin

  def _fetch(
    self,
    step: int,
    position: int,
    metrics: dict[str, chex.Array],
    diagnosis: divergence.Diagnosis,
  ) -> None:
    record = self._record
    metrics, reason = jax.device_get((metrics, diagnosis.reason))
    self._last = step
    if self._since is None:
      self._since = time.monotonic()
    else:
      self._timed += 1
    if reason:
      record.skipped += 1
      record.skipped_in_a_row += 1
      self._diverged(step, position, diagnosis)
    else:
      for name, value in metrics.items():
        record.sums[name] = record.sums.get(name, 0) + float(value)
      record.steps += 1
      record.rows += self._setup.batch_size
      record.skipped_in_a_row = 0
    if _due(step, self._settings.log_every):
      self._emit()

  def _diverged(
    self, step: int, position: int, diagnosis: divergence.Diagnosis
  ) -> None:
    """Writes down what is known, and does what the settings ask for."""
    wanted = self._setup.divergence
    report = _report(step, position, diagnosis, self._hooks) | {
      'policy': wanted.policy
    }
    path = self._hooks.report(position, report)
    message = f'step {step} diverged: {report["reason"]}; see {path}'
    if wanted.policy == 'rollback':
      raise _RollBack(position + 1, message)
    if wanted.policy == 'stop':
      raise ConfigError(
        f'{message}; nothing of it is saved: lower the learning rates, or go '
        "on with --config.divergence.policy=skip or 'rollback'"
      )
    if self._record.skipped_in_a_row > wanted.limit:
      raise ConfigError(
        f'{message}; {wanted.limit} updates before it were skipped too '
        '(divergence.limit): lower the learning rates'
      )
    logging.warning('%s; its update is skipped', message)

  def _emit(self) -> None:
    record = self._record
    sums, out = record.sums, {}
    text = f'step {self._last}/{self._end}'
    if record.steps:
      # Of each step; the others are sums over its rows.
      for name in ('learning_rate', 'gradient_norm'):
        out[name] = sums.pop(name) / record.steps
      halted = sums.pop('count')
      for name, value in sums.items():
        if name.endswith('loss'):
          out[name] = value / record.rows
        elif halted:
          # Means over the rows that halted in this window; none, no mean.
          out[name] = value / halted
      out['halted'] = halted
      text += f'  loss {out["loss"]:.4f}'
      if halted:
        text += (
          f'  cells {out["accuracy"]:.1%}  puzzles {out["exact_accuracy"]:.1%}'
          f'  segments {out["steps"]:.1f}'
        )
        record.accuracy = (self._last, out['exact_accuracy'])
        self._look_at_accuracy()
    if record.skipped:
      out['skipped'] = record.skipped
      text += f'  skipped {record.skipped}'
    if self._timed:
      seconds = (time.monotonic() - self._since) / self._timed
      left = datetime.timedelta(
        seconds=round(seconds * (self._end - self._last))
      )
      text += f'  {seconds * 1e3:.0f} ms/step  {left} left'
    logging.info('%s', text)
    self.write(self._last, out)
    record.sums, record.steps, record.rows, record.skipped = {}, 0, 0, 0

  def _look_at_accuracy(self) -> None:
    step, accuracy = self._record.accuracy
    if 0 < self._settings.stop_at_accuracy <= accuracy:
      # Not at `step`, which may be gone when its metrics arrive.
      self.enough = step + 1
      logging.info(
        'Training solves %.2f %% exactly at step %d: enough '
        '(stop_at_accuracy=%s)',
        100 * accuracy, step, self._settings.stop_at_accuracy,
      )  # fmt: skip


def _report(
  step: int, position: int, diagnosis: divergence.Diagnosis, hooks: Hooks
) -> dict[str, Any]:
  """What is known of a step, as JSON values."""
  found = jax.device_get(diagnosis)
  identifiers = found.puzzle_identifiers.tolist()
  names = hooks.position(position).identifier_names
  return {
    'step': step,
    'reason': divergence.REASONS[int(found.reason)],
    'batch': position,
    'loss': _number(found.loss),
    'loss_mean': _number(found.loss_mean),
    'gradient_norm': _number(found.gradient_norm),
    'gradient_norms': {k: _number(v) for k, v in found.gradient_norms.items()},
    'puzzle_identifiers': identifiers,
    'puzzles': [names[identifier] for identifier in identifiers],
  }


def _number(value: chex.Numeric) -> float | str:
  """JSON has no numbers that are not finite."""
  value = float(value)
  return value if math.isfinite(value) else str(value)


def _start(
  setup: train_step.TrainSetup,
  mesh: Mesh,
  saved: checkpoints.Checkpoints,
  hooks: Hooks,
) -> _Start:
  """The newest whole checkpoint's state, data position and record, or new ones.

  Raises:
    ConfigError: the rows of its puzzle table belong to other puzzles.
  """
  if not saved.steps():
    hooks.forget(0)
    return _Start(train_step.sharded_init(setup, mesh), 0, _Record())
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
  record = _Record(**position.loop)
  record.scores = list(position.scores)
  record.lines = hooks.forget(record.lines)
  return _Start(state, number, record)


def _due(step: int, every: int) -> bool:
  return every > 0 and step % every == 0


def _overview(setup: train_step.TrainSetup, state: TrainState) -> str:
  counts = count_parameters(state, setup.num_puzzle_identifiers)
  return ', '.join(f'{name} {count:,}' for name, count in counts.items())
