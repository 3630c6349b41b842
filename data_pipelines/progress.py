"""Progress of long work in the log."""

import datetime
import time

from absl import logging


class Progress:
  """Logs how much of some work is done, at most every `seconds`.

  Attributes:
    done: number of things done so far.
  """

  def __init__(self, what: str, total: int | None, seconds: float = 20.0):
    """Starts the clock.

    `what` names the things that are counted, e.g. `examples written`, and
    `total` is their number where that is known.
    """
    self._what, self._total, self._seconds = what, total, seconds
    self._start = self._logged = time.monotonic()
    self.done = 0

  @property
  def passed(self) -> float:
    """Seconds since the start."""
    return time.monotonic() - self._start

  def add(self, count: int = 1) -> bool:
    """Counts `count` more things as done, and logs a line where one is due.

    Returns:
      Whether a line was logged.
    """
    self.done += count
    now = time.monotonic()
    if self.done == self._total or now - self._logged <= self._seconds:
      return False
    self._logged = now
    logging.info('%s', self)
    return True

  def __str__(self) -> str:
    text = f'{self._what}: {self.done:,}'
    if self._total is None:
      return text
    text += f' of {self._total:,}'
    if not self.done:
      return text
    left = self.passed / self.done * (self._total - self.done)
    return f'{text}, {datetime.timedelta(seconds=round(left))} left'
