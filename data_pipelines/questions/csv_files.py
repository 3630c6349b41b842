"""CSV files of puzzles with the columns question and answer."""

import csv
import hashlib
import io
import itertools
import os
import pathlib
import reprlib
from collections.abc import Iterator

import numpy as np

from data_pipelines import files
from data_pipelines.errors import DataError
from data_pipelines.files import shown
from data_pipelines.progress import Progress
from data_pipelines.questions import records
from data_pipelines.questions.domain import Domain
from data_pipelines.questions.kinds import KINDS

_COLUMNS = ('question', 'answer')
# Number of rows that are Python objects at one time.
_CHUNK = 10_000
_SECONDS_BETWEEN_LOGS = 10


class _HashedFile(io.RawIOBase):
  """A file's bytes, which are digested on their way."""

  def __init__(self, file: io.RawIOBase):
    self._file = file
    self.digest = hashlib.sha256()

  def readable(self) -> bool:
    return True

  def readinto(self, buffer) -> int:
    count = self._file.readinto(buffer)
    self.digest.update(memoryview(buffer)[:count])
    return count


def read(path: pathlib.Path, domain: Domain | None) -> records.Questions:
  """Reads a file of puzzles; what the cells hold is not checked yet.

  Args:
    path: the file.
    domain: domain of its puzzles; None to tell it from the first row.
  """
  if not os.path.exists(path):
    raise DataError(f'{shown(path)}: no such file; give a .csv file')
  files.check_regular(path)
  try:
    with open(path, 'rb', buffering=0) as raw:
      size = os.fstat(raw.fileno()).st_size
      hashed = _HashedFile(raw)
      # Bytes that are not UTF-8 come as lone surrogates, so that the row can
      # be named and other columns may hold what they like.
      text = io.TextIOWrapper(
        io.BufferedReader(hashed, 1 << 20),
        encoding='utf-8-sig',
        errors='surrogateescape',
        newline='',
      )
      parsed = _parse(path, text, size, domain)
      digest = hashed.digest.hexdigest()[:12]
  except OSError as e:
    raise DataError(f'{shown(path)}: cannot be read ({e.strerror})') from e
  return parsed._replace(version=f'{path.name} {digest}')


def _parse(
  path: pathlib.Path,
  text: io.TextIOBase,
  size: int,
  domain: Domain | None,
) -> records.Questions:
  """The puzzles of an open file, their version still to be told."""
  reader = csv.reader(text, strict=True)
  rows_read = _records(path, reader)
  header = _header(path, next(rows_read, None))
  question_at, answer_at = (header.index(column) for column in _COLUMNS)
  faults = records.Faults()
  progress = Progress(f'{shown(path)}: rows read', None, _SECONDS_BETWEEN_LOGS)
  questions = answers = rows = None
  count = total = 0
  while chunk := list(itertools.islice(rows_read, _CHUNK)):
    progress.add(len(chunk))
    good = []
    for row, fields in chunk:
      total += 1
      reason = None
      if len(fields) != len(header):
        reason = f'has {len(fields)} fields and the header {len(header)}'
      else:
        question, answer = fields[question_at], fields[answer_at]
        if domain is None:
          domain = _tell_domain(f'{shown(path)}: row {row}', question)
        if not len(question) == len(answer) == domain.seq_len:
          reason = _wrong_length(question, answer, domain)
        elif not (question.isascii() and answer.isascii()):
          reason = _not_ascii(question, answer)
      if reason is None:
        good.append((row, question, answer))
      else:
        faults.add(row, reason)
    if not good:
      continue
    if questions is None:
      # Each row has two characters beside its cells at least: room for all of
      # them, of which the system gives only what is written to.
      room = size // (2 * domain.seq_len + 2) + 1
      questions, answers = (
        np.empty((room, domain.seq_len), np.uint8) for _ in _COLUMNS
      )
      rows = np.empty(room, np.int64)
    numbers, *columns = zip(*good, strict=True)
    end = count + len(good)
    if end > len(rows):
      raise DataError(f'{shown(path)}: grew while it was read; load it again')
    questions[count:end], answers[count:end] = domain.parse(
      *(
        np.frombuffer(''.join(column).encode(), np.uint8).reshape(
          len(good), domain.seq_len
        )
        for column in columns
      )
    )
    rows[count:end] = numbers
    count = end
  if not total:
    raise DataError(f'{shown(path)}: has a header but no rows; add puzzles')
  parsed = records.Questions('', domain, questions, answers, shown(path), rows)
  if count:
    parsed = parsed._replace(
      questions=questions[:count], answers=answers[:count], rows=rows[:count]
    )
    if faults.count:  # So that all comes at once.
      records.add_unsound(faults, parsed)
  faults.raise_any(parsed.origin, total)
  return parsed


def _records(
  path: pathlib.Path, reader: Iterator[list[str]]
) -> Iterator[tuple[int, list[str]]]:
  """The records of a file that are not empty, each with its line."""
  before = 0
  try:
    for fields in reader:
      before = reader.line_num
      if fields:
        yield before, fields
  except csv.Error as e:
    raise DataError(
      f'{shown(path)}: row {before + 1}: garbled or cut short ({e}); correct '
      'its quotes and commas'
    ) from e


def _header(
  path: pathlib.Path, record: tuple[int, list[str]] | None
) -> list[str]:
  if record is None:
    raise DataError(
      f'{shown(path)}: is empty; it must have a header and puzzles'
    )
  row, fields = record
  if any('\udc80' <= letter <= '\udcff' for x in fields for letter in x):
    raise DataError(
      f'{shown(path)}: row {row}: not UTF-8 text; save it as UTF-8'
    )
  header = [field.strip() for field in fields]
  for column in _COLUMNS:
    if header.count(column) != 1:
      found = 'no' if column not in header else 'more than one'
      raise DataError(
        f'{shown(path)}: row {row}: has {found} column {column!r} '
        f'({reprlib.repr(",".join(header))}); the header must name question '
        'and answer'
      )
  return header


def _tell_domain(where: str, question: str) -> Domain:
  """The domain of a question, by its length and characters."""
  for kind in KINDS.values():
    domain = kind.tell(question)
    if domain is not None:
      return domain
  raise DataError(
    f'{where}: question {reprlib.repr(question)} of {len(question)} characters '
    "is neither a Sudoku (16, 36 or 81 digits and '.') nor a square maze of "
    "'# SG'; correct it"
  )


def _wrong_length(question: str, answer: str, domain: Domain) -> str:
  name, text = ('question', question)
  if len(question) == domain.seq_len:
    name, text = ('answer', answer)
  return f'{name} has {len(text)} characters and must have {domain.seq_len}'


def _not_ascii(question: str, answer: str) -> str:
  name, text = ('answer', answer)
  if not question.isascii():
    name, text = ('question', question)
  at, letter = next((i, x) for i, x in enumerate(text) if not x.isascii())
  if '\udc80' <= letter <= '\udcff':
    return f'{name}: not UTF-8 text at character {at + 1}'
  return f'{name}: character {at + 1} is {letter!a}, unknown here'
