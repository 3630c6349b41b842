"""The training loop, over any source of batches."""

import contextlib
import dataclasses
import datetime
import time
from collections.abc import Callable, Iterator

import chex
import jax
from absl import logging
from jax.sharding import Mesh

from hrm_jax import act, checkpoints, sharding, train_step
from hrm_jax.errors import ConfigError
from hrm_jax.train_state import TrainState, count_parameters

Metrics = dict[str, float]


@dataclasses.dataclass(frozen=True)
class LoopSettings:
  """When the loop does what; all in optimizer steps, 0 for never.

  Attributes:
    stop_at_step: where this call ends; the schedule's end at the latest.
    log_every: steps that one line of metrics sums up.
    evaluate_every: steps between evaluations.
    checkpoint_every: steps between checkpoints; one is made at the end too.
  """

  stop_at_step: int
  log_every: int
  evaluate_every: int
  checkpoint_every: int

  def __post_init__(self):
    for name, value in dataclasses.asdict(self).items():
      if value < 0:
        raise ConfigError(f'{name}={value} must not be negative; 0 is never')


@dataclasses.dataclass(frozen=True)
class Hooks:
  """What the loop calls; the library knows neither files nor puzzles.

  Attributes:
    batches: this process's rows of all batches from a position on.
    position: what to save beside the state at a data position.
    evaluate: metrics of a state.
    write: takes a step and its metrics.
  """

  batches: Callable[[int], Iterator[act.Batch]]
  position: Callable[[int], checkpoints.Position]
  evaluate: Callable[[TrainState], Metrics]
  write: Callable[[int, Metrics], None]


def train(
  setup: train_step.TrainSetup,
  mesh: Mesh,
  saved: checkpoints.Checkpoints,
  settings: LoopSettings,
  hooks: Hooks,
) -> TrainState:
  """Trains from the newest checkpoint, or from the start, to the end.

  The order at step i is: evaluate, save, draw batch i, dispatch the step,
  then write the metrics of step i - 1 while step i computes.
  """
  state, position = _start(setup, mesh, saved, hooks)
  logging.info('Parameters: %s', _overview(setup, state))
  step_function = train_step.sharded_step(setup, mesh)
  first = int(state.step)
  end = setup.total_steps
  if settings.stop_at_step:
    end = min(end, settings.stop_at_step)
  if first >= end:
    logging.info('Step %d is done: nothing to train', first)
    return state
  logging.info(
    'Training steps %d to %d on %d × %s%s, batch size %d',
    first, end, mesh.size, mesh.devices.flat[0].device_kind,
    sharding.describe(mesh), setup.batch_size,
  )  # fmt: skip

  log = _MetricsLog(settings.log_every, setup.batch_size, end, hooks.write)
  batches = hooks.batches(position)
  for step in range(first, end + 1):
    evaluate = step > first and _due(step, settings.evaluate_every)
    save = step > first and (
      step == end or _due(step, settings.checkpoint_every)
    )
    if evaluate or save:
      log.flush()
    if evaluate:
      with log.clock_stopped():
        hooks.write(step, hooks.evaluate(state))
    if save:
      saved.save(state, hooks.position(position))
    if step == end:
      return state
    batch = sharding.global_batch(mesh, next(batches))
    position += 1
    state, metrics = step_function(state, batch)
    log.add(step + 1, metrics)


class _MetricsLog:
  """Sums metrics over windows of steps and writes them, one step late.

  The metrics of a step are fetched when the next one has been dispatched, so
  that the device never waits for the log.
  """

  def __init__(
    self,
    every: int,
    batch_size: int,
    end: int,
    write: Callable[[int, Metrics], None],
  ):
    self._every, self._batch_size, self._end = every, batch_size, end
    self._write = write
    self._pending = None
    self._sums, self._steps, self._last = {}, 0, 0
    # Of the time since the first step, which compiles.
    self._since, self._timed = None, 0

  def add(self, step: int, metrics: dict[str, chex.Array]) -> None:
    """Takes the metrics of a step just dispatched."""
    pending, self._pending = self._pending, (step, metrics)
    if pending is not None:
      self._fetch(*pending)

  def flush(self) -> None:
    """Writes all that has been added."""
    if self._pending is not None:
      step, metrics = self._pending
      self._pending = None
      self._fetch(step, metrics)
    if self._steps:
      self._emit()

  @contextlib.contextmanager
  def clock_stopped(self):
    """Keeps a pause out of the speed and the time left."""
    begin = time.monotonic()
    yield
    if self._since is not None:
      self._since += time.monotonic() - begin

  def _fetch(self, step: int, metrics: dict[str, chex.Array]) -> None:
    for name, value in jax.device_get(metrics).items():
      self._sums[name] = self._sums.get(name, 0) + float(value)
    self._steps += 1
    self._last = step
    if self._since is None:
      self._since = time.monotonic()
    else:
      self._timed += 1
    if _due(step, self._every):
      self._emit()

  def _emit(self) -> None:
    sums, rows = self._sums, self._batch_size * self._steps
    out = {'learning_rate': sums.pop('learning_rate') / self._steps}
    halted = sums.pop('count')
    for name, value in sums.items():
      if name.endswith('loss'):
        out[name] = value / rows
      elif halted:
        # Means over the rows that halted in this window; none, no mean.
        out[name] = value / halted
    out['halted'] = halted
    text = f'step {self._last}/{self._end}  loss {out["loss"]:.4f}'
    if halted:
      text += (
        f'  cells {out["accuracy"]:.1%}  puzzles {out["exact_accuracy"]:.1%}'
        f'  segments {out["steps"]:.1f}'
      )
    if self._timed:
      seconds = (time.monotonic() - self._since) / self._timed
      left = datetime.timedelta(
        seconds=round(seconds * (self._end - self._last))
      )
      text += f'  {seconds * 1e3:.0f} ms/step  {left} left'
    logging.info('%s', text)
    self._write(self._last, out)
    self._sums, self._steps = {}, 0


def _start(
  setup: train_step.TrainSetup,
  mesh: Mesh,
  saved: checkpoints.Checkpoints,
  hooks: Hooks,
) -> tuple[TrainState, int]:
  """The newest checkpoint's state and data position, or fresh ones.

  Raises:
    ConfigError: the rows of its puzzle table belong to other puzzles.
  """
  if not saved.steps():
    return train_step.sharded_init(setup, mesh), 0
  step = saved.find()
  position = saved.position(step)
  expected = hooks.position(position.data_position)
  if position.identifier_names != expected.identifier_names:
    raise ConfigError(
      f'{saved.directory}: step {step} was trained on other puzzles or '
      'augmentations than the data gives now; train in another --workdir'
    )
  state = saved.restore(step, train_step.abstract_state(setup, mesh))
  return state, position.data_position


def _due(step: int, every: int) -> bool:
  return every > 0 and step % every == 0


def _overview(setup: train_step.TrainSetup, state: TrainState) -> str:
  counts = count_parameters(state, setup.num_puzzle_identifiers)
  return ', '.join(f'{name} {count:,}' for name, count in counts.items())
