"""Puzzles with one answer from a SPEC: files, text, the hub or a generator.

`load_questions` is the only way in. Each row is checked, and none is dropped:
rows at fault are named, with their numbers, and nothing is loaded.
"""

import hashlib
import os
import pathlib
import re
import reprlib
import zipfile
import zlib
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from data_pipelines import files
from data_pipelines.errors import DataError
from data_pipelines.files import shown
from data_pipelines.questions import csv_files
from data_pipelines.questions.domain import ROLES, Domain, Questions
from data_pipelines.questions.generator import Generated
from data_pipelines.questions.kinds import KINDS
from data_pipelines.questions.maze import Maze
from data_pipelines.questions.sudoku import Sudoku

# Raised when a generator makes other puzzles of the same settings.
_GENERATOR = 1
# Seconds that the hub has to answer.
_SECONDS_TO_ANSWER = 5


class _HubSet(NamedTuple):
  """A set of the papers: its repository on the hub and what is in it.

  Of its puzzles to train on, `subset` are drawn; all where that is None.
  """

  repository: str
  domain: Domain
  num_train: int
  subset: int | None = None
  tests: str = 'test.csv'


_EXTREME = 'sapientinc/sudoku-extreme'
_HUB = {
  'sudoku_extreme_1k': _HubSet(_EXTREME, Sudoku(3, 3), 1000, 1000),
  'sudoku_extreme_full': _HubSet(_EXTREME, Sudoku(3, 3), 3_831_994),
  'maze_30x30_hard_1k': _HubSet(
    'sapientinc/maze-30x30-hard-1k', Maze(30, 30), 1000
  ),
  # Later sets of the authors have the names that the hub has.
  f'{_EXTREME}-1k': _HubSet(
    f'{_EXTREME}-1k', Sudoku(3, 3), 1000, tests='test_hard.csv'
  ),
  'sapientinc/maze-20x20-hard-1k': _HubSet(
    'sapientinc/maze-20x20-hard-1k', Maze(20, 20), 1000
  ),
}


def _name_of(spec: str) -> str:
  return re.split('[@:]', spec.strip(), maxsplit=1)[0]


def is_question_spec(source: str) -> bool:
  """Whether a source is one for `load_questions`, be it right or wrong."""
  source = source.strip()
  return (
    _name_of(source) in {*_HUB, *KINDS}
    or _split_subset(source)[0].lower().endswith(('.csv', '.txt'))
    or any(kind.is_spec(source) for kind in KINDS.values())
  )


def known_size(spec: str) -> tuple[Domain, int] | None:
  """Domain and number of training puzzles of a SPEC that means a download."""
  path, subset = _split_subset(spec.strip())
  if path not in _HUB or subset == 'test':
    return None
  return _HUB[path].domain, _HUB[path].num_train


def domain_of(spec: str) -> Domain:
  """What kind of puzzles a SPEC names, without a download.

  Raises:
    DataError: the spec or its data cannot be used.
  """
  name = _name_of(spec)
  if name in _HUB:
    return _HUB[name].domain
  if name in KINDS:
    return _parse(name, spec.strip(), ROLES[0])[0]
  return load_questions(spec, ROLES[0], 0).domain


def load_questions(spec: str, role: str, seed: int) -> Questions:
  """Loads and checks the puzzles of one source.

  Args:
    spec: one of
      * `NAME[@DIR][:train|:test]`, NAME being `sudoku_extreme_1k`,
        `sudoku_extreme_full` or `maze_30x30_hard_1k`: DIR/train.csv or
        DIR/test.csv, or else that file of the Hugging Face hub. Of the first
        the train set is a random 1000 rows of the full set, while
        `sapientinc/sudoku-extreme-1k` is the hub's own choice, whose tests are
        test_hard.csv. `sapientinc/maze-20x20-hard-1k` has smaller mazes;
      * `sudoku[:box=3x3][:clues=27][:rating=0][:count=1000][:tests=100]
        [:seed=0][:train|:test]`, generated, see `sudoku.generate`;
      * `maze[:size=30x30][:path=110][:count=1000][:tests=100][:seed=0]
        [:kind=corridors|open][:train|:test]`, generated, see `maze.generate`;
      * `PATH.csv`, with the columns question and answer, between commas,
        semicolons or tabs: Sudokus with boxes of 2 x 2, 2 x 3 or 3 x 3, or
        square mazes;
      * `PATH.txt`, which is solved here: one puzzle, a Sudoku of 16, 36 or 81
        characters, on one line or several, or the lines of a maze, whose free
        cells may be `.` too; or a list of Sudokus, one a line;
      * the characters of a Sudoku, `.` or `0` for a blank.
    role: subset of a spec that names none, `train` or `test`.
    seed: seed of the random 1000 rows.

  Raises:
    DataError: the spec or its data cannot be used.
  """
  if role not in ROLES:
    raise ValueError(f'role {role!r} is not one of {", ".join(ROLES)}')
  spec = ','.join(files.sources(spec))
  if _name_of(spec) in KINDS:
    return _generated(_name_of(spec), spec, role)
  if KINDS['sudoku'].is_spec(spec):
    return load_text(spec, 'Sudoku')
  path, subset = _split_subset(spec)
  if path.lower().endswith('.txt') and subset is None:
    file = pathlib.Path(path)
    return load_text(files.decoded(files.read(file), file), shown(file))
  if _name_of(spec) in _HUB:
    loaded = _load_hub(spec, path, subset or role, seed)
  elif not path.lower().endswith('.csv'):
    raise DataError(
      f'{spec!r}: not a set of questions; give a .csv file or one of '
      f'{", ".join([*_HUB, *KINDS])}'
    )
  elif subset is not None:
    raise DataError(
      f'{shown(path)}: a file has no subset; give the path without :{subset}'
    )
  else:
    loaded = csv_files.read(pathlib.Path(path), None)
  csv_files.check(loaded)
  return loaded


def _split_subset(spec: str) -> tuple[str, str | None]:
  """A spec without its subset, and the subset or None."""
  path, colon, subset = spec.rpartition(':')
  if colon and subset in ROLES and not os.path.exists(spec):
    return path, subset
  return spec, None


def load_text(text: str, origin: str) -> Questions:
  """The puzzles that a text shows, with the answers found here.

  They are one puzzle, or a Sudoku at the beginning of each line. Lines that
  begin with `#` are then comments.

  Raises:
    DataError: it shows none, or one that cannot be solved.
  """
  listed = [
    (number, words[0])
    for number, line in enumerate(text.splitlines(), 1)
    if (words := line.split()) and not words[0].startswith('#')
  ]
  domain: Domain | None = None
  # Free cells of a maze may be dots too.
  if listed and set(listed[0][1]) & set('123456789'):
    domain = Sudoku.tell(listed[0][1])
  if domain is None:
    domain, cells = _one_puzzle(text, origin)
    listed = [(1, cells)]
  faults, found = csv_files.Faults(), []
  for number, cells in listed:
    try:
      found.append(_solved(domain, cells))
    except DataError as error:
      if len(listed) == 1:
        raise DataError(f'{origin}: {error}; correct it') from None
      faults.add(number, str(error))
  if faults.count:
    faults.raise_all(origin, len(listed))
  questions, answers = map(np.stack, zip(*found, strict=True))
  digest = hashlib.sha256(questions.tobytes()).hexdigest()[:12]
  rows = np.array([number for number, _ in listed])
  return Questions(f'text {digest}', domain, questions, answers, origin, rows)


def _one_puzzle(text: str, origin: str) -> tuple[Domain, str]:
  """The domain and the characters of a puzzle on one line or several."""
  # A maze is told by its letters, a Sudoku by nothing but its length.
  for kind in reversed(KINDS.values()):
    if found := kind.read_text(text, origin):
      return found
  cells = ''.join(text.split())
  raise DataError(
    f'{origin}: {reprlib.repr(cells)} has {len(cells)} characters; a Sudoku '
    "has 16, 36 or 81 digits and '.', a maze lines of '# SG'"
  )


def _solved(domain: Domain, cells: str) -> tuple[np.ndarray, np.ndarray]:
  """A question and its answer, tokens [S]; a DataError where it has not one."""
  if len(cells) != domain.seq_len:
    raise DataError(
      f'question has {len(cells)} characters and must have {domain.seq_len}'
    )
  if not cells.isascii():
    at, letter = next((i, x) for i, x in enumerate(cells) if not x.isascii())
    raise DataError(f'character {at + 1} is {letter!a}, unknown here')
  question = domain.parse(np.frombuffer(cells.encode(), np.uint8))
  for _, reason in domain.check(question[None], question[None]):
    if reason.startswith('question'):
      raise DataError(reason)
  answer = domain.solve(question)
  if answer is None:
    raise DataError('question: has no solution')
  for _, reason in domain.check(question[None], answer[None]):
    raise DataError(reason)
  return question, answer


def _load_hub(spec: str, path: str, role: str, seed: int) -> Questions:
  """A set of the papers, from the Hugging Face hub or a directory."""
  name, at, directory = path.partition('@')
  if name not in _HUB or (at and not directory):
    raise DataError(f'{spec!r}: cannot be read; use NAME[@DIR][:train|:test]')
  published = _HUB[name]
  role_file = 'train.csv' if role == 'train' else published.tests
  if at:
    file = pathlib.Path(directory) / role_file
    if not os.path.exists(file):
      raise DataError(
        f'{shown(file)}: no such file; the directory of {name}@ must hold '
        f'train.csv and {published.tests}'
      )
  else:
    file = _download(name, published, role_file)
  loaded = csv_files.read(file, published.domain)
  wanted, count = published.subset, len(loaded.rows)
  if role == 'train' and wanted is not None:
    if count < wanted:
      raise DataError(
        f'{shown(file)}: has {count} rows and {name} takes {wanted}; use a '
        'larger file, or its own path to train on all of it'
      )
    chosen = np.random.default_rng(seed).choice(count, wanted, replace=False)
    # The order of the file, so that a row is found again.
    loaded = loaded.take(np.sort(chosen))._replace(
      version=f'{loaded.version} {wanted} rows of seed {seed}'
    )
  return loaded._replace(version=f'{name} {loaded.version}')


def _download(name: str, published: _HubSet, file: str) -> pathlib.Path:
  """A file of the hub, from its cache where it is there already."""
  repository = published.repository
  local = (
    f'or give {name}@DIR, the directory of train.csv and {published.tests}'
  )
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


def _generated(name: str, spec: str, role: str) -> Questions:
  """The puzzles of a generator's spec, checked already when they were made."""
  domain, size, settings, subset = _parse(name, spec, role)
  count, tests = settings['count'], settings['tests']
  key, part = {
    'train': ('count', slice(0, count)),
    'test': ('tests', slice(count, None)),
  }[subset]
  if not settings[key]:
    raise DataError(
      f'{spec!r}: has no {subset} puzzles; set {key}= to 1 or more'
    )
  named = {domain.size: size, **settings}
  if 'kind' in settings:
    named['kind'] = domain.kinds[settings['kind']]
  text = ':'.join([name, *(f'{key}={value}' for key, value in named.items())])
  path = files.cache_folder() / f'{text.replace(":", "_")}_v{_GENERATOR}.npz'
  puzzles = _read_cache(path, domain, count + tests)
  if puzzles is None:
    puzzles = domain.generate(count + tests, settings)
    _write_cache(path, puzzles)
  digest = hashlib.sha256(puzzles.questions.tobytes()).hexdigest()[:12]
  return Questions(
    f'generated {text}:{subset} {digest}',
    domain,
    puzzles.questions,
    puzzles.answers,
    f'generated {text}',
    np.arange(1, count + tests + 1),
  ).take(part)


def _parse(
  name: str, spec: str, role: str
) -> tuple[Domain, str, dict[str, int], str]:
  """The domain, size, settings and subset of a generator's spec."""
  kind = KINDS[name]
  first, *words = spec.split(':')
  subset = words.pop() if words and words[-1] in ROLES else role
  given = dict(word.partition('=')[::2] for word in words)
  size = given.pop(kind.size, kind.default_size)
  if not re.fullmatch(r'[0-9]{1,3}x[0-9]{1,3}', size):
    raise DataError(
      f'{spec!r}: {kind.size} is {size!r} and must be two numbers, as '
      f'{kind.default_size}'
    )
  sides = [int(side) for side in size.split('x')]
  domain, size = kind(*sides), 'x'.join(map(str, sides))
  settings = domain.defaults()
  chosen = given.pop('kind', '') if kind.kinds else ''
  if chosen and chosen not in kind.kinds:
    raise DataError(
      f'{spec!r}: kind is {chosen!r}; use {" or ".join(kind.kinds)}'
    )
  names = [word.partition('=')[0] for word in words]
  known = {kind.size: kind.default_size, **settings}
  if kind.kinds:
    known['kind'] = '|'.join(kind.kinds)
  for key in names:
    if key not in known or names.count(key) > 1:
      what = 'is there twice' if names.count(key) > 1 else 'is not known'
      raise DataError(
        f'{spec!r}: {key!r} {what}; use {name}'
        f'{"".join(f"[:{k}={v}]" for k, v in known.items())}[:train|:test]'
      )
  for key, value in given.items():
    if not re.fullmatch('[0-9]{1,9}', value):
      raise DataError(
        f'{spec!r}: {key} is {value!r} and must be a whole number'
      )
    settings[key] = int(value)
  if chosen in kind.kinds[1:]:
    settings['kind'] = kind.kinds.index(chosen)
  if first != name:
    raise DataError(f'{spec!r}: {name} is generated and takes no directory')
  return domain, size, settings, subset


def _read_cache(
  path: pathlib.Path, domain: Domain, count: int
) -> Generated | None:
  """What an earlier run generated; None where there is none, or a damaged
  one."""
  try:
    # np.load leaves a damaged file open that it opened itself.
    with open(path, 'rb') as raw, np.load(raw, allow_pickle=False) as file:
      puzzles = Generated(*(file[name] for name in Generated._fields))
    found = [(array.shape, array.dtype) for array in puzzles]
    cells = (count, domain.seq_len), np.uint8
    if found[:2] != [cells, cells] or found[2][0] != (count,):
      raise ValueError('other arrays than were written')
    if faults := domain.check(puzzles.questions, puzzles.answers):
      raise ValueError(f'puzzle {faults[0][0] + 1}: {faults[0][1]}')
    return puzzles
  except (FileNotFoundError, NotADirectoryError):
    return None
  except (
    OSError, EOFError, ValueError, LookupError, NotImplementedError,
    zipfile.BadZipFile, zlib.error,
  ) as e:  # fmt: skip
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
