"""New puzzles for a trained model: rows of their own, fitted to examples.

A puzzle that was not trained on has no row in the puzzle table, and without one
the model does not know which puzzle it sees. Its row is learned as all others
were, by the very training step, on its demonstrations; the checkpoint's weights
may stay as they are, or learn too.
"""

import dataclasses
import datetime
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from absl import logging
from jax.sharding import Mesh

from data_pipelines.errors import ConfigError
from hrm_jax.parallel import sharding
from hrm_jax.training import act, divergence
from hrm_jax.training import step as train_step
from hrm_jax.training.state import TrainState

Watch = Callable[[int, dict[str, float]], None]

# Seconds between two lines of progress.
_PROGRESS_SECONDS = 10.0
# Fraction of the steps for which the rates rise, and fraction of the peak rates
# left at the last step.
_WARMUP, _LAST = 0.1, 0.1


def setup_for(
  setup: train_step.TrainSetup,
  num_puzzle_identifiers: int,
  batch_size: int,
  steps: int,
  trunk: bool,
) -> train_step.TrainSetup:
  """The run's setup, changed so that it fits new puzzles.

  Args:
    setup: that the checkpoint was trained with.
    num_puzzle_identifiers: number of those of the new puzzles, blank included.
    batch_size: number of rows of a step.
    steps: at most.
    trunk: whether the dense parameters learn too.

  Raises:
    ConfigError: the model has no puzzle embeddings, or a size is out of range.
  """
  if not setup.model.settings.puzzle_emb_ndim:
    raise ConfigError(
      'the checkpoint has no puzzle embeddings (model.puzzle_emb_ndim=0): '
      'nothing can be fitted to a new puzzle; use --adapt=none'
    )
  if steps < 1:
    raise ConfigError(f'{steps} steps fit nothing; it must be at least 1')
  optimizer = dataclasses.replace(
    setup.optimizer,
    # At a rate of 0 nothing moves or decays, and no gradient is computed.
    learning_rate=setup.optimizer.learning_rate if trunk else 0.0,
    warmup_steps=round(_WARMUP * steps),
    min_ratio=_LAST,
    ema_decay=0.0,
  )
  return dataclasses.replace(
    setup,
    optimizer=optimizer,
    total_steps=steps,
    batch_size=batch_size,
    num_puzzle_identifiers=num_puzzle_identifiers,
    microbatches=1,
  )


def start(
  setup: train_step.TrainSetup, mesh: Mesh, variables: dict[str, Any]
) -> TrainState:
  """The checkpoint's weights under a puzzle table of zeros.

  Args:
    setup: set-up that `setup_for` gave.
    mesh: to train on.
    variables: weights of the checkpoint that predict; they are copied.
  """
  state = train_step.sharded_init(setup, mesh)
  # The step takes its state's buffers for its own.
  return state.replace(**jax.tree.map(jnp.copy, dict(variables)))


def fit(
  setup: train_step.TrainSetup,
  mesh: Mesh,
  state: TrainState,
  batches: Iterator[act.Batch],
  seconds: float | None = None,
  watch: Watch = lambda step, metrics: None,
) -> TrainState:
  """Takes the setup's steps, or as many of them as there is time for.

  Args:
    setup: set-up that `setup_for` gave.
    mesh: to train on, of one process.
    state: state that `start` gave; its buffers are used up.
    batches: demonstrations of the new puzzles, in batches of the set-up's size.
    seconds: after which no further step is begun, compilation included; None
      for no limit.
    watch: takes the number of each step done and its metrics, as sums over its
      rows (see `losses.segment_loss`).

  Raises:
    ConfigError: a step diverged.
  """
  progress = _Progress(setup, seconds, watch)
  step_function = train_step.sharded_step(setup, mesh)
  pending = None
  while progress.goes_on():
    batch = sharding.global_batch(mesh, next(batches))
    state, *found = step_function(state, batch)
    # Read when the next step has been dispatched, as in training.
    if pending is not None:
      progress.add(*pending)
    pending = found
    progress.begun += 1
  progress.add(*pending)
  progress.log(last=True)
  return state


class _Progress:
  """Counts steps and time, and logs a line every few seconds."""

  def __init__(
    self, setup: train_step.TrainSetup, seconds: float | None, watch: Watch
  ):
    self._setup, self._seconds, self._watch = setup, seconds, watch
    self._start = self._logged = time.monotonic()
    self._first = None  # When the first step had been compiled and done.
    self.begun = self._done = 0
    self._sums, self._rows = {}, 0

  def goes_on(self) -> bool:
    """Whether another step is to be taken; the first one always is."""
    passed = time.monotonic() - self._start
    out_of_time = self._seconds is not None and passed >= self._seconds
    return not self.begun or (
      self.begun < self._setup.total_steps and not out_of_time
    )

  def add(self, metrics, diagnosis: divergence.Diagnosis) -> None:
    metrics, reason = jax.device_get((metrics, diagnosis.reason))
    self._done += 1
    if reason:
      raise ConfigError(
        f'fitting diverged at step {self._done}: '
        f'{divergence.REASONS[int(reason)]}; fit with fewer --steps, or '
        '--adapt=none'
      )
    metrics = {name: float(value) for name, value in metrics.items()}
    self._watch(self._done, metrics)
    for name, value in metrics.items():
      self._sums[name] = self._sums.get(name, 0) + value
    self._rows += self._setup.batch_size
    now = time.monotonic()
    self._first = self._first or now
    if now - self._logged > _PROGRESS_SECONDS:
      self.log()

  def log(self, last: bool = False) -> None:
    now = time.monotonic()
    text = f'fitting step {self._done}/{self._setup.total_steps}'
    if self._rows:
      text += f'  loss {self._sums["loss"] / self._rows:.4f}'
    if self._sums.get('count'):
      cells, puzzles = (
        self._sums[name] / self._sums['count']
        for name in ('accuracy', 'exact_accuracy')
      )
      text += f'  cells {cells:.1%}  puzzles {puzzles:.1%}'
    if last:
      text += f'  done in {now - self._start:.0f} s'
    elif self._done > 1:
      left = (now - self._first) / (self._done - 1)
      left *= self._setup.total_steps - self._done
      if self._seconds is not None:
        left = min(left, self._seconds - (now - self._start))
      text += f'  {datetime.timedelta(seconds=max(0, round(left)))} left'
    logging.info('%s', text)
    self._sums, self._rows, self._logged = {}, 0, now
