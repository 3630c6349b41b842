"""Directories in the published on-disk format, HRM's and TRM's.

    DIR/{train,test}/dataset.json
    DIR/{train,test}/all__{inputs,labels}.npy             examples × cells
    DIR/{train,test}/all__puzzle_identifiers.npy          puzzles
    DIR/{train,test}/all__{puzzle,group}_indices.npy      bounds, from 0
    DIR/identifiers.json                                  names

Examples of puzzle p are `puzzle_indices[p] … puzzle_indices[p + 1]`, puzzles of
group g are `group_indices[g] … group_indices[g + 1]`. Inputs and labels are
memory-mapped, and so need not fit the memory.
"""

import hashlib
import json
import math
import mmap
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from data_pipelines import files, sampler
from data_pipelines.arc import encoding, leaks
from data_pipelines.arc.tasks import NamedPair, Pair, Task
from data_pipelines.arc.voting import Ballots
from data_pipelines.batches import BLANK_NAME, IGNORE_LABEL, Batch, padded
from data_pipelines.errors import DataError
from data_pipelines.published import identifiers
from data_pipelines.puzzle_set import EvaluationRows, PuzzleSet
from data_pipelines.questions import maze
from data_pipelines.questions.domain import Asked, Domain
from data_pipelines.questions.maze import Maze
from data_pipelines.questions.sudoku import Sudoku

SPLITS = ('train', 'test')
# Number of rows that tell the kind of the puzzles.
_ROWS_LOOKED_AT = 64
# Number of rows that earlier versions told data apart by.
_SAMPLE = 2048
# Number of rows that are read at a time.
_CHUNK = 1024


class Split(NamedTuple):
  """One half of a directory; arrays as the module describes them.

  Attributes:
    directory: where it lies.
    metadata: dataset.json.
    inputs: [N, S], memory-mapped.
    labels: [N, S], memory-mapped.
    puzzle_identifiers: int64 [puzzles].
    puzzle_indices: int64 [puzzles + 1].
    group_indices: int64 [groups + 1].
  """

  directory: pathlib.Path
  metadata: dict[str, Any]
  inputs: np.ndarray
  labels: np.ndarray
  puzzle_identifiers: np.ndarray
  puzzle_indices: np.ndarray
  group_indices: np.ndarray

  def read(self, example: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and labels, int32 [B, S]; labels with IGNORE_LABEL.

    Raises:
      DataError: a token is not of the vocabulary.
    """
    labels = _read_rows(self.labels, example)
    ignored = self.metadata['ignore_label_id']
    counted = np.ones_like(labels, bool)
    if ignored is not None:
      counted = labels != ignored
    self._check('labels', example, labels, counted)
    labels = np.where(counted, labels.astype(np.int32), IGNORE_LABEL)
    return self.read_inputs(example).astype(np.int32), labels

  def read_inputs(self, example: np.ndarray) -> np.ndarray:
    """Inputs alone, uint8 [B, S].

    Raises:
      DataError: a token is not of the vocabulary.
    """
    inputs = _read_rows(self.inputs, example)
    self._check('inputs', example, inputs, True)
    return inputs.astype(np.uint8)

  def _check(
    self,
    name: str,
    example: np.ndarray,
    tokens: np.ndarray,
    counted: np.ndarray | bool,
  ) -> None:
    # Before the tokens become smaller numbers, which would wrap them.
    size = self.metadata['vocab_size']
    wrong = counted & ((tokens < 0) | (tokens >= size))
    if wrong.any():
      row, cell = np.argwhere(wrong)[0]
      raise DataError(
        f'{self.where(name)}: example {example[row]} has the token '
        f'{tokens[row, cell]}, not one of 0 … {size - 1}; build the data set '
        'anew'
      )

  def asked(self, domain: Domain | None) -> Asked:
    """All examples as questions and answers, which are read when asked for."""

    def read(example):
      inputs, labels = self.read(example)
      return inputs.astype(np.uint8), padded(labels).astype(np.uint8)

    return Asked(
      domain,
      self.metadata['vocab_size'],
      self.metadata['seq_len'],
      len(self.inputs),
      read,
      lambda row: f'{self.directory.name}:{row}',
    )

  def chunks(self) -> Iterator[np.ndarray]:
    """The numbers of all examples, int64, a few at a time."""
    for begin in range(0, len(self.inputs), _CHUNK):
      yield np.arange(begin, min(begin + _CHUNK, len(self.inputs)))

  def where(self, name: str) -> str:
    """The file of one of the arrays, for messages."""
    return files.shown(self.directory / f'all__{name}.npy')


def is_published(path: pathlib.Path) -> bool:
  """Whether a directory looks like one that the published builders wrote."""
  return any(os.path.exists(path / split / 'dataset.json') for split in SPLITS)


class PublishedSet(PuzzleSet):
  """The examples of a directory in the published format.

  Augmentations and shifts are those that its builder wrote.

  Attributes:
    names: of each puzzle identifier.
    is_arc: whether these are tasks of ARC.
  """

  def __init__(self, directory: pathlib.Path, train: bool, evaluate: bool):
    """Opens DIR/train, DIR/test, or both.

    Raises:
      DataError: a file is missing, damaged or does not fit the others.
    """
    self._train = _open(directory / 'train') if train else None
    self._test = _open(directory / 'test') if evaluate else None
    splits = [split for split in (self._train, self._test) if split]
    metadata = splits[0].metadata
    for key in ('vocab_size', 'seq_len', 'num_puzzle_identifiers'):
      if splits[-1].metadata[key] != metadata[key]:
        raise DataError(
          f'{files.shown(directory)}: {key} is {metadata[key]} in '
          f'train/dataset.json and {splits[-1].metadata[key]} in '
          'test/dataset.json; they must agree'
        )
    self.vocab_size = metadata['vocab_size']
    self.seq_len = metadata['seq_len']
    self.names = _names(directory, metadata['num_puzzle_identifiers'])
    self._splits = splits
    self._label = f'published {files.shown(directory.name)}'
    self.version = f'{self._label} {_digest(splits, self.names)}'
    self.variants = self.members = np.zeros(0, np.int64)
    if self._train:
      self.variants = np.diff(self._train.group_indices)
      self.members = np.diff(self._train.puzzle_indices)
    side = math.isqrt(self.seq_len)
    is_square = side * side == self.seq_len
    self.is_arc = (
      len(self.names) > 1
      and is_square
      and self.vocab_size == encoding.VOCAB_SIZE
    )
    self.domain = None
    if len(self.names) == 1 and is_square:
      self.domain = _domain(self.vocab_size, side, splits[0])
    self.evaluation_tasks: list[Task] = []
    self._rows = None
    if self._test:
      self._rows = self._arc_rows() if self.is_arc else self._plain_rows()

  @property
  def earlier_versions(self) -> list[str]:
    return [f'{self._label} {_sampled_digest(self._splits, self.names)}']

  @property
  def num_identifiers(self) -> int:
    return len(self.names)

  def identifier_names(self) -> list[str]:
    return self.names

  def describe(self) -> str:
    held_out = len(self._rows) if self._rows else 0
    return (
      f'{self.version}: {len(self.variants):,} groups, {len(self.members):,} '
      f'puzzles, {self.members.sum():,} training examples, '
      f'{len(self.names):,} puzzle identifiers, {held_out:,} examples held out'
    )

  def evaluation_rows(
    self, max_augmentations: int | None = None, max_puzzles: int | None = None
  ) -> EvaluationRows:
    rows = self._rows
    if rows is None:
      nothing = np.zeros(0, np.int64)
      return EvaluationRows(nothing, nothing, nothing, nothing)
    groups = int(rows.group.max()) + 1
    kept = np.isin(rows.group, sampler.spread(groups, max_puzzles))
    if max_augmentations is not None:
      # Rows of a test input stand together, in the order of its puzzles.
      changes = (np.diff(rows.group) != 0) | (np.diff(rows.test) != 0)
      first = np.r_[0, np.flatnonzero(changes) + 1]
      length = np.diff(np.r_[first, len(rows)])
      kept &= np.arange(len(rows)) - np.repeat(first, length) < (
        max_augmentations
      )
    return rows.take(np.flatnonzero(kept))

  def name_of(self, group: int) -> str:
    return super().name_of(group) if self.is_arc else f'test:{group}'

  def held_out(self, chosen: EvaluationRows) -> Ballots | Asked:
    if not self.is_arc:
      asked = self._test.asked(self.domain)
      return asked.take(chosen.example)
    return Ballots(
      self.evaluation_tasks,
      chosen.group,
      chosen.test,
      *self._augmentations(chosen.identifier),
    )

  def compared(self) -> tuple[Any, Any]:
    if not self._train or not self._test:
      return [], []
    if self.is_arc:
      held_out = self.held_out_pairs()
      return self.trained_pairs(held_out), held_out
    return self._train.asked(self.domain), self._test.asked(self.domain)

  def trained_pairs(self, held_out: Sequence[NamedPair]) -> Iterator[NamedPair]:
    """The ARC pairs of all puzzles that training shows, as augmented.

    Args:
      held_out: pairs they will be compared with; what cannot equal any of them
        is left out.
    """
    suspects, split = leaks.Suspects(held_out), self._train
    for example in split.chunks():
      inputs, labels = split.read(example)
      for row in example[suspects.rows(inputs, padded(labels))]:
        puzzle = np.searchsorted(split.puzzle_indices, row, side='right') - 1
        yield self._named_pair(split, row, split.puzzle_identifiers[puzzle])

  def held_out_pairs(self) -> list[NamedPair]:
    """The ARC pairs of all puzzles that are scored.

    Each test pair of a task is there once, and besides it whatever differs from
    it in a puzzle that has the task's name.
    """
    tasks, rows, split = self.evaluation_tasks, self._rows, self._test
    pairs = leaks.held_out_pairs(tasks)
    side = math.isqrt(self.seq_len)
    canvases = np.full((len(pairs), 2, side, side), encoding.OUTSIDE, np.uint8)
    for canvas, named in zip(canvases, pairs, strict=True):
      for shown, grid in zip(
        canvas, (named.pair.input, named.pair.output), strict=True
      ):
        if grid is not None:
          shown[: len(grid), : grid.shape[1]] = grid
    first = np.cumsum([0] + [len(task.tests) for task in tasks])
    expected = first[rows.group] + rows.test
    for begin in range(0, len(rows), _CHUNK):
      part = slice(begin, begin + _CHUNK)
      augmentations = self._augmentations(rows.identifier[part])
      inputs, labels = split.read(rows.example[part])
      differs = np.zeros(len(inputs), bool)
      for role, tokens in enumerate((inputs, padded(labels))):
        grids, *_ = encoding.decode(tokens.astype(np.uint8), *augmentations)
        other = grids != canvases[expected[part], role]
        differs |= other.any(axis=(1, 2))
      pairs += [
        self._named_pair(split, rows.example[row], rows.identifier[row])
        for row in begin + np.flatnonzero(differs)
      ]
    return pairs

  def _named_pair(self, split: Split, row: int, identifier: int) -> NamedPair:
    name, *_ = encoding.parse_augmentation_name(self.names[identifier])
    (pair,) = self._pairs(split, np.array([row]))
    return NamedPair(name, f'example[{row}]', pair)

  def _augmentations(
    self, identifier: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray]:
    """The dihedral transforms [N] and colours [N, 10] of puzzles."""
    parsed = [
      encoding.parse_augmentation_name(self.names[i])[1:] for i in identifier
    ]
    dihedral, colours = zip(*parsed, strict=True)
    return np.array(dihedral), np.array(colours)

  def _train_index(self, examples: sampler.Examples) -> Batch:
    puzzle = self._train.group_indices[examples.group] + examples.variant
    example = self._train.puzzle_indices[puzzle] + examples.member
    return self._batch(
      self._train, example, self._train.puzzle_identifiers[puzzle]
    )

  def _evaluation_index(self, chosen: EvaluationRows) -> Batch:
    return self._batch(self._test, chosen.example, chosen.identifier)

  def _batch(
    self, split: Split, example: np.ndarray, identifier: np.ndarray
  ) -> Batch:
    inputs, labels = split.read(example)
    return {
      'inputs': inputs,
      'labels': labels,
      'puzzle_identifiers': identifier.astype(np.int32),
    }

  def _plain_rows(self) -> EvaluationRows:
    count = len(self._test.inputs)
    sizes = np.diff(self._test.puzzle_indices)
    identifier = np.repeat(self._test.puzzle_identifiers, sizes)
    number = np.arange(count)
    return EvaluationRows(number, np.zeros_like(number), identifier, number)

  def _arc_rows(self) -> EvaluationRows:
    """Examples by task and test input; fills `evaluation_tasks`."""
    number_of_task, columns = {}, []
    split = self._test
    for puzzle, identifier in enumerate(split.puzzle_identifiers):
      begin, end = split.puzzle_indices[puzzle : puzzle + 2]
      name, transform, colours = encoding.parse_augmentation_name(
        self.names[identifier]
      )
      if name not in number_of_task:
        number_of_task[name] = len(self.evaluation_tasks)
        pairs = tuple(
          Pair(
            *(
              None
              if grid is None
              else encoding.deaugment(grid, transform, colours)
              for grid in (pair.input, pair.output)
            )
          )
          for pair in self._pairs(split, np.arange(begin, end))
        )
        self.evaluation_tasks.append(Task(name, (), pairs))
      task = number_of_task[name]
      order = self._test_order(
        puzzle, self.evaluation_tasks[task], transform, colours
      )
      columns += [
        (task, test, identifier, example)
        for test, example in zip(order, range(begin, end), strict=True)
      ]
    rows = np.array(columns, np.int64).reshape(-1, 4)
    # Stable: of each test input, puzzles stay in the order of the file.
    rows = rows[np.lexsort((rows[:, 1], rows[:, 0]))]
    return EvaluationRows(*rows.T)

  def _test_order(
    self, puzzle: int, task: Task, transform: int, colours: np.ndarray
  ) -> list[int]:
    """Which of the task's test inputs each example of the puzzle shows."""
    split = self._test
    begin, end = split.puzzle_indices[puzzle : puzzle + 2]

    def fault(what: str) -> DataError:
      name = self.names[split.puzzle_identifiers[puzzle]]
      return DataError(
        f'{split.where("inputs")}: puzzle {puzzle} ({name!r}): {what}; build '
        'the data set anew'
      )

    if end - begin != len(task.tests):
      raise fault(
        f'has {end - begin} examples, other augmentations of its task '
        f'{len(task.tests)}'
      )
    if end - begin == 1:
      return [0]
    order = []
    for pair in self._pairs(split, np.arange(begin, end)):
      grid = encoding.deaugment(pair.input, transform, colours)
      same = [
        test
        for test, other in enumerate(task.tests)
        if test not in order and np.array_equal(other.input, grid)
      ]
      if not same:
        raise fault('is no augmentation of its task')
      order.append(same[0])
    return order

  def _pairs(self, split: Split, example: np.ndarray) -> list[Pair]:
    """The grids of examples of ARC puzzles, as augmented as they are."""
    inputs, labels = split.read(example)
    pairs = []
    labels = padded(labels)
    for row, *tokens in zip(example, inputs, labels, strict=True):
      grids = []
      for name, canvas in zip(('inputs', 'labels'), tokens, strict=True):
        try:
          grids.append(encoding.uncover(canvas))
        except ValueError as error:
          raise DataError(
            f'{split.where(name)}: example {row}: {error}; build the data set '
            'anew'
          ) from None
      if grids[0] is None:
        raise DataError(
          f'{split.where("inputs")}: example {row} is empty; build the data '
          'set anew'
        )
      pairs.append(Pair(*grids))
    return pairs


def _open(directory: pathlib.Path) -> Split:
  """Opens one split and checks that its files fit together."""
  path = directory / 'dataset.json'
  where = files.shown(path)
  metadata = files.parse_json(files.read(path), path)
  if not isinstance(metadata, dict):
    raise DataError(f'{where}: must be an object')
  for key in ('vocab_size', 'seq_len', 'num_puzzle_identifiers'):
    if type(metadata.get(key)) is not int or metadata[key] < 1:
      raise DataError(
        f'{where}: {key} is {metadata.get(key)!r}; it must be a whole number '
        'from 1 on'
      )
  if metadata['vocab_size'] > 256:
    raise DataError(
      f'{where}: vocab_size is {metadata["vocab_size"]}; at most 256 here'
    )
  for key in ('pad_id', 'blank_identifier_id'):
    if metadata.get(key, 0) != 0:
      raise DataError(f'{where}: {key} is {metadata[key]!r}; only 0 is known')
  ignored = metadata.setdefault('ignore_label_id', None)
  if ignored is not None and type(ignored) is not int:
    raise DataError(
      f'{where}: ignore_label_id is {ignored!r}; it must be a whole number or '
      'null'
    )
  if metadata.get('sets') != ['all']:
    raise DataError(
      f'{where}: sets is {metadata.get("sets")!r}; only ["all"] is known'
    )
  arrays = {
    name: _load(directory / f'all__{name}.npy', dimensions)
    for name, dimensions in (
      ('inputs', 2),
      ('labels', 2),
      ('puzzle_identifiers', 1),
      ('puzzle_indices', 1),
      ('group_indices', 1),
    )
  }
  for name in ('puzzle_identifiers', 'puzzle_indices', 'group_indices'):
    arrays[name] = np.array(arrays[name], np.int64)
  split = Split(directory, metadata, **arrays)

  count, cells = split.inputs.shape
  if cells != metadata['seq_len']:
    raise DataError(
      f'{split.where("inputs")}: has {cells} cells an example, seq_len in '
      f'dataset.json is {metadata["seq_len"]}'
    )
  if split.labels.shape != split.inputs.shape:
    raise DataError(
      f'{split.where("labels")}: has the shape {split.labels.shape}, '
      f'all__inputs.npy {split.inputs.shape}; one of them is cut short'
    )
  puzzles = len(split.puzzle_identifiers)
  for name, things, last in (
    ('puzzle_indices', 'examples', count),
    ('group_indices', 'puzzles', puzzles),
  ):
    bounds = getattr(split, name)
    if (
      not len(bounds)
      or bounds[0] != 0
      or bounds[-1] != last
      or bounds.min() < 0
      or bounds.max() > last
    ):
      raise DataError(
        f'{split.where(name)}: must go from 0 to {last}, the number of '
        f'{things}; one of the files is cut short'
      )
    if (np.diff(bounds) < 0).any():
      row = int((np.diff(bounds) < 0).argmax())
      raise DataError(f'{split.where(name)}: falls after entry {row}')
  if len(split.puzzle_indices) != puzzles + 1:
    raise DataError(
      f'{split.where("puzzle_indices")}: has {len(split.puzzle_indices)} '
      f'entries for {puzzles} puzzle identifiers; it must have one more'
    )
  for name, whole, part in (
    ('puzzle_indices', 'puzzle', 'example'),
    ('group_indices', 'group', 'puzzle'),
  ):
    empty = np.diff(getattr(split, name)) < 1
    if empty.any():
      row = int(empty.argmax())
      raise DataError(f'{split.where(name)}: {whole} {row} has no {part}')
  most = metadata['num_puzzle_identifiers']
  wrong = (split.puzzle_identifiers < 0) | (split.puzzle_identifiers >= most)
  if wrong.any():
    row = int(wrong.argmax())
    raise DataError(
      f'{split.where("puzzle_identifiers")}: entry {row} is '
      f'{split.puzzle_identifiers[row]}, out of the range 0 … {most - 1} that '
      'num_puzzle_identifiers in dataset.json gives'
    )
  if not count:
    raise DataError(f'{split.where("inputs")}: holds no example')
  return split


def _load(path: pathlib.Path, dimensions: int) -> np.ndarray:
  where = files.shown(path)
  files.check_regular(path)
  try:
    array = np.load(path, mmap_mode='r')
  except OSError as error:
    raise DataError(
      f'{where}: cannot be read ({error.strerror or error})'
    ) from None
  # numpy's reader has many errors for a damaged header.
  except Exception as error:
    reason = ' '.join(str(error).split())[:100] or type(error).__name__
    raise DataError(
      f'{where}: not a whole .npy file ({reason}); copy or build it anew'
    ) from None
  if not isinstance(array, np.ndarray) or array.ndim != dimensions:
    raise DataError(f'{where}: must be one array of {dimensions} dimensions')
  if array.dtype.kind not in 'iu':
    raise DataError(f'{where}: holds {array.dtype}, must hold whole numbers')
  return array


def _domain(vocab_size: int, side: int, split: Split) -> Sudoku | Maze | None:
  """What puzzles without names are: of what has their tokens and cells, that
  of which the first ones are sound."""
  first = np.arange(min(_ROWS_LOOKED_AT, len(split.inputs)))
  candidates = [Sudoku(*box) for box in ((2, 2), (2, 3), (3, 3))]
  candidates += [Maze(side, side)] if 2 <= side <= maze.MAX_SIDE else []
  for domain in candidates:
    if (domain.vocab_size, domain.seq_len) == (vocab_size, side**2):
      answers = split.read(first)[1].astype(np.uint8)
      if not domain.check(split.read_inputs(first), answers):
        return domain
  return None


def _read_rows(array: np.memmap, rows: np.ndarray) -> np.ndarray:
  """Some rows of a memory-mapped array.

  The pages are handed back to the system, which keeps them while it has room:
  otherwise the whole file would soon count as this process's memory.
  """
  found = array[rows]
  pages = array.base
  if isinstance(pages, mmap.mmap) and hasattr(mmap, 'MADV_DONTNEED'):
    pages.madvise(mmap.MADV_DONTNEED)
  return found


def _names(directory: pathlib.Path, count: int) -> list[str]:
  path = directory / 'identifiers.json'
  if count == 1 and not path.exists():
    return [BLANK_NAME]
  return identifiers.read(
    path, count, 'dataset.json says num_puzzle_identifiers is'
  )


def _digest(splits: list[Split], names: list[str]) -> str:
  """A digest of all contents."""
  digest = hashlib.sha256(json.dumps(names).encode())
  for split in splits:
    _add_small_files(digest, split)
    for array in (split.inputs, split.labels):
      digest.update(f'{array.dtype.str} {array.shape}'.encode())
      for example in split.chunks():
        digest.update(_read_rows(array, example))
  return digest.hexdigest()[:12]


def _sampled_digest(splits: list[Split], names: list[str]) -> str:
  """The digest of earlier versions, which left most examples out."""
  digest = hashlib.sha256(json.dumps(names).encode())
  for split in splits:
    _add_small_files(digest, split)
    rows = sampler.spread(len(split.inputs), _SAMPLE)
    for array in (split.inputs, split.labels):
      digest.update(_read_rows(array, rows).tobytes())
  return digest.hexdigest()[:12]


def _add_small_files(digest: Any, split: Split) -> None:
  digest.update(json.dumps(split.metadata, sort_keys=True).encode())
  for array in split[4:]:
    digest.update(array.tobytes())
