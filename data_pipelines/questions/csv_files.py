"""CSV files of puzzles with the columns question and answer."""

import csv
import hashlib
import io
import itertools
import os
import pathlib
import reprlib
from collections.abc import Iterator
from typing import NoReturn

import numpy as np

from data_pipelines import files
from data_pipelines.errors import DataError
from data_pipelines.files import shown
from data_pipelines.progress import Progress
from data_pipelines.questions.domain import Domain, Questions
from data_pipelines.questions.kinds import KINDS

_COLUMNS = ('question', 'answer')
# Number of rows that are Python objects at one time.
_CHUNK = 10_000
# Number of rows that are checked between two lines of the log.
_CHECK_CHUNK = 100_000
# Number of rows at fault that an error names; it counts the others.
_NAMED = 3


class Faults:
  """Counts rows at fault and keeps what is wrong with the first ones."""

  def __init__(self):
    self.count, self._first = 0, list[str]()

  def add(self, row: int, reason: str) -> None:
    self.count += 1
    if self.count <= _NAMED:
      self._first.append(f'row {row}: {reason}')

  def add_unsound(self, loaded: Questions) -> None:
    """Adds the puzzles whose content is at fault."""
    count = len(loaded.rows)
    progress = Progress(f'{loaded.origin}: puzzles checked', count)
    for start in range(0, count, _CHECK_CHUNK):
      part = slice(start, start + _CHECK_CHUNK)
      for i, reason in loaded.domain.check(
        loaded.questions[part], loaded.answers[part]
      ):
        self.add(loaded.rows[start + i], reason)
      progress.add(min(count - start, _CHECK_CHUNK))

  def raise_all(self, origin: str, rows: int) -> NoReturn:
    named = '; '.join(self._first)
    if self.count == 1:
      raise DataError(f'{origin}: {named}; correct or remove it')
    raise DataError(
      f'{origin}: {self.count} of {rows} rows cannot be used: {named}; '
      f'{"...; " * (self.count > _NAMED)}correct or remove them'
    )


def check(loaded: Questions) -> None:
  """Raises for puzzles at fault."""
  faults = Faults()
  faults.add_unsound(loaded)
  if faults.count:
    faults.raise_all(loaded.origin, len(loaded.rows))


def read(path: pathlib.Path, domain: Domain | None) -> Questions:
  """Reads a file of puzzles; what the cells hold is not checked yet.

  Args:
    path: the file.
    domain: domain of its puzzles; None to tell it from the first row.
  """
  if not os.path.exists(path):
    raise DataError(f'{shown(path)}: no such file; give a .csv file')
  with files.reading(path), open(path, 'rb') as raw:
    digest = hashlib.file_digest(raw, 'sha256').hexdigest()[:12]
    raw.seek(0)
    # Bytes that are not UTF-8 come as lone surrogates, so that the row can be
    # named and other columns may hold what they like.
    text = io.TextIOWrapper(raw, 'utf-8-sig', 'surrogateescape', newline='')
    parsed = _parse(shown(path), text, domain)
  return parsed._replace(version=f'{path.name} {digest}')


def _parse(
  origin: str, text: io.TextIOBase, domain: Domain | None
) -> Questions:
  """The puzzles of an open file, their version still to be told."""
  records = _records(origin, text)
  header = _header(origin, next(records, None))
  at = [header.index(column) for column in _COLUMNS]
  faults = Faults()
  progress = Progress(f'{origin}: rows read', None)
  parts = []
  while chunk := list(itertools.islice(records, _CHUNK)):
    progress.add(len(chunk))
    good = []
    for row, fields in chunk:
      if len(fields) != len(header):
        faults.add(
          row, f'has {len(fields)} fields and the header {len(header)}'
        )
        continue
      cells = [fields[i] for i in at]
      domain = domain or _tell_domain(f'{origin}: row {row}', cells[0])
      if reason := _reason(cells, domain.seq_len):
        faults.add(row, reason)
      else:
        good.append((row, *cells))
    if domain and good:
      numbers, *columns = zip(*good, strict=True)
      tokens = (
        domain.parse(np.frombuffer(''.join(column).encode(), np.uint8))
        for column in columns
      )
      parts.append((np.array(numbers), *tokens))
  if not progress.done:
    raise DataError(f'{origin}: has a header but no rows; add puzzles')
  if not domain or not parts:
    faults.raise_all(origin, progress.done)
  rows, questions, answers = map(np.concatenate, zip(*parts, strict=True))
  shape = len(rows), domain.seq_len
  parsed = Questions(
    '', domain, questions.reshape(shape), answers.reshape(shape), origin, rows
  )
  if len(rows) < progress.done:
    faults.add_unsound(parsed)  # So that all comes at once.
    faults.raise_all(origin, progress.done)
  return parsed


def _records(
  origin: str, text: io.TextIOBase
) -> Iterator[tuple[int, list[str]]]:
  """The records of a file that are not empty, each with its last line."""
  header = text.readline()
  text.seek(0)
  # The separator of the header, be it that of a spreadsheet.
  marks = [mark for mark in ',;\t' if mark in header] or [',']
  reader = csv.reader(text, strict=True, delimiter=marks[0])
  before = 0
  try:
    for fields in reader:
      before = reader.line_num
      if fields:
        yield before, fields
  except csv.Error as e:
    raise DataError(
      f'{origin}: row {before + 1}: garbled or cut short ({e}); correct its '
      'quotes and separators'
    ) from e


def _header(origin: str, record: tuple[int, list[str]] | None) -> list[str]:
  if record is None:
    raise DataError(f'{origin}: is empty; it must have a header and puzzles')
  row, fields = record
  if any(map(_is_no_text, ''.join(fields))):
    raise DataError(f'{origin}: row {row}: not UTF-8 text; save it as UTF-8')
  header = [field.strip() for field in fields]
  if not set(_COLUMNS) <= set(header):
    header = [field.lower() for field in header]
  for column in _COLUMNS:
    if header.count(column) != 1:
      found = 'no' if column not in header else 'more than one'
      raise DataError(
        f'{origin}: row {row}: has {found} column {column!r} '
        f'({reprlib.repr(",".join(header))}); the header must name question '
        'and answer'
      )
  return header


def _tell_domain(where: str, question: str) -> Domain:
  """The domain of a question, by its length and characters."""
  for kind in KINDS.values():
    if domain := kind.tell(question):
      return domain
  raise DataError(
    f'{where}: question {reprlib.repr(question)} of {len(question)} characters '
    "is neither a Sudoku (16, 36 or 81 digits and '.') nor a square maze of "
    f"'# SG'; correct it{_stripped(question)}"
  )


def _stripped(text: str) -> str:
  """Says that a maze may have lost the free cells at its ends."""
  is_maze = '#' in text and text == text.strip()
  return ', or keep the blanks at its ends (were they stripped?)' * is_maze


def _reason(cells: list[str], seq_len: int) -> str | None:
  """What is wrong with a question and its answer as texts."""
  for name, text in zip(_COLUMNS, cells, strict=True):
    if len(text) != seq_len:
      return (
        f'{name} has {len(text)} characters and must have {seq_len}'
        f'{_stripped(text)}'
      )
  for name, text in zip(_COLUMNS, cells, strict=True):
    if not text.isascii():
      at, letter = next((i, x) for i, x in enumerate(text) if not x.isascii())
      if _is_no_text(letter):
        return f'{name}: not UTF-8 text at character {at + 1}'
      return f'{name}: character {at + 1} is {letter!a}, unknown here'
  return None


def _is_no_text(letter: str) -> bool:
  """Whether a byte was read that is not UTF-8."""
  return '\udc80' <= letter <= '\udcff'
