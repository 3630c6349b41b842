"""Lines of metrics: means over windows of steps, written one step late."""

import contextlib
import dataclasses
import datetime
import math
import time
from collections.abc import Callable, Iterator

import jax
import numpy as np
from absl import logging

from hrm_jax.settings import Settings
from hrm_jax.training import divergence

Metrics = dict[str, float]
# Number and batch of the first step of a call, and of all of its steps, which
# are stacked if there are several, the metrics on the device and the diagnosis.
_Dispatched = tuple[int, int, dict[str, jax.Array], divergence.Diagnosis]


def due(step: int, every: int) -> bool:
  """Whether something is done at this step; never where `every` is 0."""
  return every > 0 and step % every == 0


@dataclasses.dataclass
class Record:
  """What the loop remembers besides the state, in order to continue exactly.

  Attributes:
    lines: number of lines of metrics written so far.
    sums: sums of the metrics over the window that the next line is about.
    steps: number of healthy steps in that window.
    rows: number of rows of these steps.
    skipped: number of steps in that window whose update was not applied.
    skipped_in_a_row: number of such steps up to now.
    accuracy: last step of the last window, and the fraction solved in it.
    evaluated: step of the last evaluation.
    scores: step and score of each evaluation.
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


class MetricsLog:
  """Sums metrics over windows of steps and writes them, one call late.

  The metrics of a call are fetched when the next one has been dispatched, so
  that the device never waits for the log. A window does not end where a
  checkpoint is made, whose record holds its sums: so the lines are the same
  however often the run is stopped.

  Args:
    settings: when lines are written.
    record: what was summed up so far; it is updated.
    end: step at which training ends.
    write: takes a step and its metrics, a line.
    diverged: takes the number of a step that diverged, the number of its batch
      and the diagnosis; it may raise an exception.
    full_rate_seconds: what a step would take at the devices' full rate, if
      that is known.

  Attributes:
    enough: step to end at, as the training accuracy was reached.
  """

  def __init__(
    self,
    settings: Settings,
    record: Record,
    end: int,
    write: Callable[[int, Metrics], None],
    diverged: Callable[[int, int, divergence.Diagnosis], None],
    full_rate_seconds: float | None,
  ):
    self._settings, self._record, self._end = settings, record, end
    self._write, self._diverged = write, diverged
    self._full_rate_seconds = full_rate_seconds
    self._pending: _Dispatched | None = None
    self._last = 0
    # The time is measured from the end of the first call, which compiles.
    self._since: float | None = None
    self._timed = 0
    self.enough = math.inf
    self._look_at_accuracy()

  def add(self, *pending: *_Dispatched) -> None:
    """Takes what is known of the steps of a call just dispatched."""
    self.catch_up()
    self._pending = pending

  def finish(self) -> None:
    """Writes a line of the steps that do not fill a window."""
    if self._record.steps or self._record.skipped:
      self._emit()

  def write(self, step: int, metrics: Metrics) -> None:
    """Writes a line."""
    self._write(step, metrics)
    self._record.lines += 1

  @contextlib.contextmanager
  def clock_stopped(self) -> Iterator[None]:
    """Keeps a pause out of the speed and the time left."""
    begin = time.monotonic()
    yield
    if self._since is not None:
      self._since += time.monotonic() - begin

  def catch_up(self) -> None:
    """Takes in all that has been added."""
    if self._pending is None:
      return
    step, batch, metrics, diagnosis = self._pending
    self._pending = None
    metrics, reasons = jax.device_get((metrics, diagnosis.reason))
    if self._since is None:
      self._since = time.monotonic()
    else:
      self._timed += reasons.size
    # The index of a step that was alone in its call is ().
    for i, at in enumerate(np.ndindex(reasons.shape)):
      record, self._last = self._record, step + i
      if reasons[at]:
        record.skipped += 1
        record.skipped_in_a_row += 1
        one = jax.tree.map(lambda leaf, at=at: leaf[at], diagnosis)
        self._diverged(step + i, batch + i, one)
      else:
        for name, value in metrics.items():
          record.sums[name] = record.sums.get(name, 0) + float(value[at])
        record.steps += 1
        record.rows += self._settings.batch_size
        record.skipped_in_a_row = 0
      if due(step + i, self._settings.log_every):
        self._emit()

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
        # Other means are over the rows that halted in this window, if any.
        if rows := record.rows if name.endswith('loss') else halted:
          out[name] = value / rows
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
    if self._since and self._timed:
      seconds = (time.monotonic() - self._since) / self._timed
      left = round(seconds * (self._end - self._last))
      rows = self._settings.batch_size / seconds
      text += f'  {seconds * 1e3:.3g} ms/step  {rows:,.0f} rows/s'
      if self._full_rate_seconds:
        text += f'  utilisation {self._full_rate_seconds / seconds:.0%}'
      text += f'  {datetime.timedelta(seconds=left)} left'
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
