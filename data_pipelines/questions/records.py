"""Checked puzzles of one source, and what is said of rows at fault."""

from typing import NamedTuple

import numpy as np

from data_pipelines.errors import DataError
from data_pipelines.progress import Progress
from data_pipelines.questions.domain import Domain

# Number of rows that are checked between two lines of the log.
_CHECK_CHUNK = 100_000
_SECONDS_BETWEEN_LOGS = 10
# Number of rows at fault that an error names; it counts the others.
_NAMED = 3


class Questions(NamedTuple):
  """Checked puzzles in the order of their source.

  Attributes:
    version: which data exactly they are.
    domain: what kind of puzzles they are.
    questions: tokens, uint8 [N, S].
    answers: tokens, uint8 [N, S].
    origin: the file, or the generator, for messages.
    rows: int64 [N], the line of the file that each puzzle ends in, the header
      being line 1; of a generator the number of the puzzle, from 1.
  """

  version: str
  domain: Domain
  questions: np.ndarray
  answers: np.ndarray
  origin: str
  rows: np.ndarray


def check(loaded: Questions) -> None:
  """Raises for puzzles at fault."""
  faults = Faults()
  add_unsound(faults, loaded)
  faults.raise_any(loaded.origin, len(loaded.rows))


def add_unsound(faults: 'Faults', loaded: Questions) -> None:
  """Adds the puzzles whose content is at fault."""
  count = len(loaded.rows)
  progress = Progress(
    f'{loaded.origin}: puzzles checked', count, _SECONDS_BETWEEN_LOGS
  )
  for start in range(0, count, _CHECK_CHUNK):
    part = slice(start, start + _CHECK_CHUNK)
    for i, reason in loaded.domain.check(
      loaded.questions[part], loaded.answers[part]
    ):
      faults.add(loaded.rows[start + i], reason)
    progress.add(min(count - start, _CHECK_CHUNK))


class Faults:
  """Counts rows at fault and keeps what is wrong with the first ones."""

  def __init__(self):
    self.count = 0
    self._first = []

  def add(self, row: int, reason: str) -> None:
    self.count += 1
    if self.count <= _NAMED:
      self._first.append(f'row {row}: {reason}')

  def raise_any(self, origin: str, rows: int) -> None:
    if not self.count:
      return
    named = '; '.join(self._first)
    if self.count == 1:
      raise DataError(f'{origin}: {named}; correct or remove it')
    if self.count > _NAMED:
      named += '; ...'
    raise DataError(
      f'{origin}: {self.count} of {rows} rows cannot be used: {named}; '
      'correct or remove them'
    )
