"""Questions and answers of one domain: files, text, the hub or a generator.

`load_questions` is the only way in. Each row is checked, and none is dropped:
rows at fault are named, with their numbers, and nothing is loaded.
"""

import csv
import dataclasses
import hashlib
import io
import itertools
import math
import os
import pathlib
import re
import reprlib
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from data_pipelines import files
from data_pipelines.errors import DataError
from data_pipelines.files import shown
from data_pipelines.progress import Progress
from data_pipelines.questions import maze, sudoku
from data_pipelines.questions.generator import Generated
from data_pipelines.questions.maze import Maze
from data_pipelines.questions.sudoku import Sudoku

ROLES = ('train', 'test')

_COLUMNS = ('question', 'answer')
# Rows that are Python objects at one time, and rows checked between two lines
# of the log.
_CHUNK = 10_000
_CHECK_CHUNK = 100_000
_SECONDS_BETWEEN_LOGS = 10
_SECONDS_TO_ANSWER = 5  # Of the hub.
# Rows at fault that an error names; it counts the others.
_NAMED = 3
_SUBSET = 1000

# Raised when a generator makes other puzzles of the same settings.
_GENERATOR = 1
# Characters that may be wrong in what is taken for a Sudoku.
_SLIPS = 2
_BOXES_OF_LENGTH = {16: (2, 2), 36: (2, 3), 81: (3, 3)}


@dataclasses.dataclass(frozen=True)
class _Published:
  """A published set: its repository on the hub and what is in it.

  Attributes:
    repository: on the Hugging Face hub.
    domain: of its puzzles.
    num_train: puzzles that are trained on.
    subset: how many are drawn for them; None for all.
  """

  repository: str
  domain: Sudoku | Maze
  num_train: int
  subset: int | None = None


_PUBLISHED = {
  'sudoku_extreme_1k': _Published(
    'sapientinc/sudoku-extreme', Sudoku(3, 3), _SUBSET, _SUBSET
  ),
  'sudoku_extreme_full': _Published(
    'sapientinc/sudoku-extreme', Sudoku(3, 3), 3_831_994
  ),
  'maze_30x30_hard_1k': _Published(
    'sapientinc/maze-30x30-hard-1k', Maze(30, 30), 1000
  ),
}


class _Kind(NamedTuple):
  """A generator: its settings and how they become puzzles.

  Attributes:
    size: name of the setting that holds the size.
    default_size: as `3x3`.
    domain: makes the domain of a size.
    defaults: the other settings of a domain.
    generate: makes puzzles of a domain, their number and the settings.
  """

  size: str
  default_size: str
  domain: Callable[[int, int], Sudoku | Maze]
  defaults: Callable[[Any], dict[str, int]]
  generate: Callable[[Any, int, dict[str, int]], Generated]


def _sudoku_defaults(domain: Sudoku) -> dict[str, int]:
  # There are too few Sudokus of 4 x 4 for a thousand.
  count = 400 if domain.side == 4 else 1000
  clues = {4: 8, 6: 12, 9: 27}[domain.side]
  return {'clues': clues, 'rating': 0, 'count': count, 'tests': 100, 'seed': 0}


def _maze_defaults(domain: Maze) -> dict[str, int]:
  # 110 for 30 x 30, as published, and the same share of other sizes.
  path = max(1, domain.seq_len * 110 // 900)
  return {'path': path, 'count': 1000, 'tests': 100, 'seed': 0}


_KINDS = {
  'sudoku': _Kind(
    'box',
    '3x3',
    Sudoku,
    _sudoku_defaults,
    lambda domain, count, settings: sudoku.generate(
      domain, count, settings['seed'], settings['clues'], settings['rating']
    ),
  ),
  'maze': _Kind(
    'size',
    '30x30',
    Maze,
    _maze_defaults,
    lambda domain, count, settings: maze.generate(
      domain, count, settings['seed'], settings['path']
    ),
  ),
}


class Questions(NamedTuple):
  """Checked puzzles in the order of their source.

  Attributes:
    version: which data exactly they are.
    domain: what kind of puzzles.
    questions: tokens, uint8 [N, S].
    answers: tokens, uint8 [N, S].
    origin: the file, or the generator, for messages.
    rows: int64 [N], the line of the file that each puzzle ends in, the header
      being line 1; of a generator the number of the puzzle, from 1.
  """

  version: str
  domain: Sudoku | Maze
  questions: np.ndarray
  answers: np.ndarray
  origin: str
  rows: np.ndarray


def is_question_spec(source: str) -> bool:
  """Whether a source is one for `load_questions`, be it right or wrong."""
  source = source.strip()
  name = re.split('[@:]', source, maxsplit=1)[0]
  return (
    name in _PUBLISHED
    or name in _KINDS
    or _split_subset(source)[0].lower().endswith(('.csv', '.txt'))
    or _is_sudoku_text(source)
  )


def _is_sudoku_text(source: str) -> bool:
  """Whether a source is a Sudoku itself, be it right or wrong."""
  others = sum(letter not in '.0123456789' for letter in source)
  return (
    len(source) >= min(_BOXES_OF_LENGTH) - _SLIPS
    and others <= _SLIPS
    and not set(source) & set('/\\:@,=')
    and not os.path.exists(source)
  )


def known_size(spec: str) -> tuple[Sudoku | Maze, int] | None:
  """Domain and number of training puzzles of a SPEC that means a download.

  None of any other.
  """
  path, subset = _split_subset(spec.strip())
  if path not in _PUBLISHED or subset == 'test':
    return None
  return _PUBLISHED[path].domain, _PUBLISHED[path].num_train


def domain_of(spec: str) -> Sudoku | Maze:
  """What kind of puzzles a SPEC names, without a download.

  Raises:
    DataError: the spec or its data cannot be used.
  """
  name = re.split('[@:]', spec.strip(), maxsplit=1)[0]
  if name in _PUBLISHED:
    return _PUBLISHED[name].domain
  if name in _KINDS:
    return _parse_settings(name, spec.strip(), ROLES[0])[0]
  return load_questions(spec, ROLES[0], 0).domain


def load_questions(spec: str, role: str, seed: int) -> Questions:
  """Loads and checks the puzzles of one source.

  Args:
    spec: one of
      * `NAME[@DIR][:train|:test]`, NAME being `sudoku_extreme_1k`,
        `sudoku_extreme_full` or `maze_30x30_hard_1k`: DIR/train.csv or
        DIR/test.csv, or else that file of the Hugging Face hub. Of the first
        the train set is a random 1000 rows;
      * `sudoku[:box=3x3][:clues=27][:rating=0][:count=1000][:tests=100]
        [:seed=0][:train|:test]`, generated, see `sudoku.generate`;
      * `maze[:size=30x30][:path=110][:count=1000][:tests=100][:seed=0]
        [:train|:test]`, generated, see `maze.generate`;
      * `PATH.csv`, with the columns question and answer: Sudokus with boxes of
        2 x 2, 2 x 3 or 3 x 3, or square mazes;
      * `PATH.txt`, one puzzle, which is solved here: a Sudoku of 16, 36 or 81
        characters, on one line or several, or the lines of a maze; its free
        cells may be `.` too;
      * the characters of a Sudoku, `.` or `0` for a blank.
    role: `train` or `test`, the subset of a spec that names none.
    seed: of the random 1000 rows.

  Raises:
    DataError: the spec or its data cannot be used.
  """
  if role not in ROLES:
    raise ValueError(f'role {role!r} is not one of {", ".join(ROLES)}')
  spec = spec.strip()
  name = re.split('[@:]', spec, maxsplit=1)[0]
  if name in _KINDS:
    return _load_generated(name, spec, role)
  if _is_sudoku_text(spec):
    return load_text(spec, 'Sudoku')
  path, subset = _split_subset(spec)
  if path.lower().endswith('.txt') and subset is None:
    return load_text(_read_text(pathlib.Path(path)), shown(path))
  if name in _PUBLISHED:
    return _load_published(spec, path, subset or role, seed)
  if not path.lower().endswith('.csv'):
    raise DataError(
      f'{spec!r}: not a set of questions; give a .csv file or one of '
      f'{", ".join([*_PUBLISHED, *_KINDS])}'
    )
  if subset is not None:
    raise DataError(
      f'{shown(path)}: a file has no subset; give the path without :{subset}'
    )
  file = _read_csv(pathlib.Path(path), None)
  _check(file)
  return file


def _split_subset(spec: str) -> tuple[str, str | None]:
  """A spec without its subset, and the subset or None."""
  path, colon, subset = spec.rpartition(':')
  if colon and subset in ROLES and not os.path.exists(spec):
    return path, subset
  return spec, None


def _check(loaded: Questions) -> None:
  """Raises for puzzles at fault."""
  faults = _Faults()
  _add_unsound(faults, loaded)
  faults.raise_any(loaded.origin, len(loaded.rows))


def _add_unsound(faults: '_Faults', loaded: Questions) -> None:
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


class _Faults:
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


# Files.


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


def _read_csv(path: pathlib.Path, domain: Sudoku | Maze | None) -> Questions:
  """Reads a file of puzzles; what the cells hold is not checked yet.

  Args:
    path: of the file.
    domain: of its puzzles; None to tell it from the first row.
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
  domain: Sudoku | Maze | None,
) -> Questions:
  """The puzzles of an open file, their version still to be told."""
  reader = csv.reader(text, strict=True)
  records = _records(path, reader)
  header = _header(path, next(records, None))
  question_at, answer_at = (header.index(column) for column in _COLUMNS)
  faults = _Faults()
  progress = Progress(f'{shown(path)}: rows read', None, _SECONDS_BETWEEN_LOGS)
  questions = answers = rows = None
  count = total = 0
  while chunk := list(itertools.islice(records, _CHUNK)):
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
  parsed = Questions('', domain, questions, answers, shown(path), rows)
  if count:
    parsed = parsed._replace(
      questions=questions[:count], answers=answers[:count], rows=rows[:count]
    )
    if faults.count:  # So that all comes at once.
      _add_unsound(faults, parsed)
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


def _tell_domain(where: str, question: str) -> Sudoku | Maze:
  """The domain of a question, by its length and characters."""
  length = len(question)
  if length in _BOXES_OF_LENGTH and not set(question) - set('.0123456789'):
    return Sudoku(*_BOXES_OF_LENGTH[length])
  side = math.isqrt(length)
  is_square = 2 <= side <= maze.MAX_SIDE and side * side == length
  if is_square and not set(question) - set(maze.CHARACTERS):
    return Maze(side, side)
  raise DataError(
    f'{where}: question {reprlib.repr(question)} of {length} characters is '
    "neither a Sudoku (16, 36 or 81 digits and '.') nor a square maze of "
    "'# SG'; correct it"
  )


def _wrong_length(question: str, answer: str, domain: Sudoku | Maze) -> str:
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


# Text.


def _read_text(path: pathlib.Path) -> str:
  try:
    return files.read(path).decode('utf-8-sig')
  except UnicodeDecodeError as e:
    raise DataError(
      f'{shown(path)}: not UTF-8 text (byte {e.start}); save it as UTF-8'
    ) from e


def load_text(text: str, origin: str) -> Questions:
  """The one puzzle that a text shows, with the answer found here."""
  cells = ''.join(text.split())
  if set(text) & set('#SG'):
    domain, cells = _maze_text(text, origin)
  elif len(cells) in _BOXES_OF_LENGTH:
    domain = Sudoku(*_BOXES_OF_LENGTH[len(cells)])
  else:
    raise DataError(
      f'{origin}: {reprlib.repr(cells)} has {len(cells)} characters; a Sudoku '
      "has 16, 36 or 81 digits and '.', a maze lines of '# SG'"
    )
  if not cells.isascii():
    at, letter = next((i, x) for i, x in enumerate(cells) if not x.isascii())
    raise DataError(f'{origin}: character {at + 1} is {letter!a}, unknown here')
  asked = np.frombuffer(cells.encode(), np.uint8)[None]
  questions, _ = domain.parse(asked, asked)
  faults = [
    reason
    for _, reason in domain.check(questions, questions)
    if reason.startswith('question')
  ]
  answer = None if faults else domain.solve(questions[0])
  if answer is not None:
    faults = [reason for _, reason in domain.check(questions, answer[None])]
  elif not faults:
    faults = ['question: has no solution']
  if faults:
    raise DataError(f'{origin}: {faults[0]}; correct it')
  digest = hashlib.sha256(questions.tobytes()).hexdigest()[:12]
  return Questions(
    f'text {digest}', domain, questions, answer[None], origin, np.array([1])
  )


def _maze_text(text: str, origin: str) -> tuple[Maze, str]:
  """The maze that lines show, and its characters as a CSV file has them."""
  lines = [line.rstrip('\r') for line in text.split('\n')]
  while lines and not lines[-1]:
    lines.pop()
  for number, line in enumerate(lines, 1):
    if len(line) != len(lines[0]):
      raise DataError(
        f'{origin}: line {number} has {len(line)} cells and line 1 '
        f"{len(lines[0])}; make all as long ('.' is a free cell too)"
      )
  return Maze(len(lines), len(lines[0])), ''.join(lines).replace('.', ' ')


# Published sets.


def _load_published(spec: str, path: str, subset: str, seed: int) -> Questions:
  name, at, directory = path.partition('@')
  if name not in _PUBLISHED or (at and not directory):
    raise DataError(f'{spec!r}: cannot be read; use NAME[@DIR][:train|:test]')
  published = _PUBLISHED[name]
  if at:
    file = pathlib.Path(directory) / f'{subset}.csv'
    if not os.path.exists(file):
      raise DataError(
        f'{shown(file)}: no such file; the directory of {name}@ must hold '
        'train.csv and test.csv'
      )
  else:
    file = _download(name, published.repository, f'{subset}.csv')
  loaded = _read_csv(file, published.domain)
  if subset == 'train' and published.subset is not None:
    wanted, count = published.subset, len(loaded.rows)
    if count < wanted:
      raise DataError(
        f'{shown(file)}: has {count} rows and {name} takes {wanted}; use a '
        'larger file, or its own path to train on all of it'
      )
    # The order of the file, so that a row is found again.
    chosen = np.random.default_rng(seed).choice(count, wanted, replace=False)
    chosen.sort()
    loaded = loaded._replace(
      version=f'{loaded.version} {wanted} rows of seed {seed}',
      questions=loaded.questions[chosen],
      answers=loaded.answers[chosen],
      rows=loaded.rows[chosen],
    )
  loaded = loaded._replace(version=f'{name} {loaded.version}')
  _check(loaded)
  return loaded


def _download(name: str, repository: str, file: str) -> pathlib.Path:
  """A file of the hub, from its cache where it is there already."""
  local = f'or give {name}@DIR, the directory of train.csv and test.csv'
  try:
    import huggingface_hub
  except ImportError as e:
    raise DataError(
      f"{name}: needs huggingface_hub; pip install 'hrm-jax[hub]', {local}"
    ) from e
  offline = _offline(huggingface_hub, repository, file)
  try:
    return pathlib.Path(
      huggingface_hub.hf_hub_download(
        repository,
        file,
        repo_type='dataset',
        etag_timeout=_SECONDS_TO_ANSWER,
        local_files_only=bool(offline),
      )
    )
  # Whatever the network, the hub or the disk had to say.
  except Exception as e:
    reason = ' '.join((offline or f'{type(e).__name__}: {e}').split())[:200]
    raise DataError(
      f'{name}: {file} of {repository} could not be had from the Hugging Face '
      f'hub; look at the network, {local} ({reason})'
    ) from e


def _offline(huggingface_hub: Any, repository: str, file: str) -> str:
  """Why the hub does not answer; empty where it does.

  One question only: by itself a download asks again for half a minute before
  it says that there is no network.
  """
  try:
    huggingface_hub.get_session().head(
      huggingface_hub.hf_hub_url(repository, file, repo_type='dataset'),
      timeout=_SECONDS_TO_ANSWER,
    )
  except Exception as e:
    return f'{type(e).__name__}: {e}'
  return ''


# Generators.


def _load_generated(name: str, spec: str, role: str) -> Questions:
  kind = _KINDS[name]
  domain, settings, subset = _parse_settings(name, spec, role)
  count, tests = settings['count'], settings['tests']
  wanted = {'train': count, 'test': tests}[subset]
  if not wanted:
    which = {'train': 'count', 'test': 'tests'}[subset]
    raise DataError(
      f'{spec!r}: has no {subset} puzzles; set {which}= to 1 or more'
    )
  text = ':'.join(
    [
      name,
      f'{kind.size}={_size_of(domain)}',
      *(f'{key}={value}' for key, value in settings.items()),
    ]
  )
  path = files.cache_folder() / f'{text.replace(":", "_")}_v{_GENERATOR}.npz'
  puzzles = _read_cache(path, domain, count + tests)
  if puzzles is None:
    puzzles = kind.generate(domain, count + tests, settings)
    _write_cache(path, puzzles)
  digest = hashlib.sha256(puzzles.questions.tobytes()).hexdigest()[:12]
  part = slice(0, count) if subset == 'train' else slice(count, None)
  # Checked already: by the generator, or when they came from the cache.
  return Questions(
    f'generated {text}:{subset} {digest}',
    domain,
    puzzles.questions[part],
    puzzles.answers[part],
    f'generated {text}',
    np.arange(1, count + tests + 1)[part],
  )


def _size_of(domain: Sudoku | Maze) -> str:
  return 'x'.join(str(x) for x in dataclasses.astuple(domain))


def _parse_settings(
  name: str, spec: str, role: str
) -> tuple[Sudoku | Maze, dict[str, int], str]:
  """The domain, settings and subset of a generator's spec."""
  kind = _KINDS[name]
  first, *words = spec.split(':')
  subset = words.pop() if words and words[-1] in ROLES else role
  given = dict(word.partition('=')[::2] for word in words)
  size = given.pop(kind.size, kind.default_size)
  if not re.fullmatch(r'[0-9]{1,3}x[0-9]{1,3}', size):
    raise DataError(
      f'{spec!r}: {kind.size} is {size!r} and must be two numbers, as '
      f'{kind.default_size}'
    )
  domain = kind.domain(*(int(side) for side in size.split('x')))
  settings = kind.defaults(domain)
  names = [word.partition('=')[0] for word in words]
  for key in names:
    if key not in (kind.size, *settings) or names.count(key) > 1:
      what = 'is there twice' if names.count(key) > 1 else 'is not known'
      raise DataError(
        f'{spec!r}: {key!r} {what}; use '
        f'{name}[:{kind.size}={kind.default_size}]'
        f'{"".join(f"[:{k}={v}]" for k, v in settings.items())}[:train|:test]'
      )
  for key, value in given.items():
    if not re.fullmatch('[0-9]{1,9}', value):
      raise DataError(
        f'{spec!r}: {key} is {value!r} and must be a whole number'
      )
    settings[key] = int(value)
  if first != name:
    raise DataError(f'{spec!r}: {name} is generated and takes no directory')
  return domain, settings, subset


def _read_cache(
  path: pathlib.Path, domain: Sudoku | Maze, count: int
) -> Generated | None:
  """What an earlier run generated; None where there is none, or a damaged
  one."""
  if not os.path.exists(path):
    return None
  try:
    # np.load leaves a damaged file open that it opened itself.
    with open(path, 'rb') as raw, np.load(raw, allow_pickle=False) as file:
      puzzles = Generated(*(file[name] for name in Generated._fields))
    shape = count, domain.seq_len
    if not (
      puzzles.questions.shape == puzzles.answers.shape == shape
      and puzzles.questions.dtype == puzzles.answers.dtype == np.uint8
      and puzzles.ratings.shape == (count,)
    ):
      raise ValueError('other arrays than were written')
    faults = domain.check(puzzles.questions, puzzles.answers)
    if faults:
      raise ValueError(f'puzzle {faults[0][0] + 1}: {faults[0][1]}')
    return puzzles
  except (
    OSError,
    EOFError,
    ValueError,
    LookupError,
    NotImplementedError,
    zipfile.BadZipFile,
    zlib.error,
  ) as e:
    logging.warning('%s: damaged (%s); the puzzles are made anew', path, e)
    return None


def _write_cache(path: pathlib.Path, puzzles: Generated) -> None:
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.replacing(path) as part, open(part, 'wb') as file:
      np.savez_compressed(file, **puzzles._asdict())
  except OSError as e:
    logging.warning(
      '%s: cannot be written (%s); the puzzles will be made again next time',
      path,
      e.strerror,
    )
