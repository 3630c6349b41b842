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

import collections
import math
import os
import pathlib
from collections.abc import Iterator, Sequence

import numpy as np

from data_pipelines import files, sampler
from data_pipelines.arc import encoding, leaks
from data_pipelines.arc.tasks import NamedPair, NamedPairs, Pair, Task
from data_pipelines.arc.voting import Ballots
from data_pipelines.batches import BLANK_NAME, Batch, padded
from data_pipelines.errors import DataError
from data_pipelines.published import identifiers, splits
from data_pipelines.published.splits import Split
from data_pipelines.puzzle_set import EvaluationRows, PuzzleSet
from data_pipelines.questions import kinds
from data_pipelines.questions.domain import Asked, Domain

SPLITS = ('train', 'test')
# Number of rows that tell the kind of the puzzles.
_ROWS_LOOKED_AT = 64


def is_published(path: pathlib.Path) -> bool:
  """Whether a directory looks like one that the published builders wrote."""
  return any(os.path.exists(path / split / 'dataset.json') for split in SPLITS)


class PublishedSet(PuzzleSet):
  """The examples of a directory in the published format.

  Augmentations and shifts are those that its builder wrote.
  """

  def __init__(self, directory: pathlib.Path, train: bool, evaluate: bool):
    """Opens DIR/train, DIR/test, or both.

    Raises:
      DataError: a file is missing, damaged or does not fit the others.
    """
    asked = zip(SPLITS, (train, evaluate), strict=True)
    parts = [splits.open_split(directory / name) for name, use in asked if use]
    # Of one half alone no row is ever asked for in place of the other.
    self._train, self._test = parts[0], parts[-1]
    metadata = parts[0].metadata
    for key in ('vocab_size', 'seq_len', 'num_puzzle_identifiers'):
      if parts[-1].metadata[key] != metadata[key]:
        raise DataError(
          f'{files.shown(directory)}: {key} is {metadata[key]} in '
          f'train/dataset.json and {parts[-1].metadata[key]} in '
          'test/dataset.json; they must agree'
        )
    self.vocab_size = metadata['vocab_size']
    self.seq_len = metadata['seq_len']
    count = metadata['num_puzzle_identifiers']
    path = directory / 'identifiers.json'
    self.names = [BLANK_NAME]
    if count > 1 or path.exists():
      self.names = identifiers.read(
        path, count, 'dataset.json says num_puzzle_identifiers is'
      )
    self._splits = parts
    self._label = f'published {files.shown(directory.name)}'
    self.version = f'{self._label} {splits.digest(parts, self.names)}'
    self.variants = self.members = np.zeros(0, np.int64)
    if train:
      self.variants = np.diff(self._train.group_indices)
      self.members = np.diff(self._train.puzzle_indices)
    self._side = math.isqrt(self.seq_len)
    self.is_arc = (
      len(self.names) > 1
      and self._side**2 == self.seq_len
      and self.vocab_size == encoding.VOCAB_SIZE
    )
    if len(self.names) == 1:
      self.domain = _domain(self.vocab_size, self.seq_len, parts[0])
    self.evaluation_tasks: list[Task] = []
    self._rows = EvaluationRows(*np.zeros((4, 0), np.int64))
    if evaluate:
      self._rows = self._arc_rows() if self.is_arc else self._plain_rows()

  def recognise(self, recorded: str | None) -> None:
    sampled = splits.digest(self._splits, self.names, splits.SAMPLE)
    if recorded == f'{self._label} {sampled}':
      self.version = recorded

  @property
  def num_identifiers(self) -> int:
    return len(self.names)

  def identifier_names(self) -> list[str]:
    return self.names

  def describe(self) -> str:
    pairs = np.stack([self._rows.group, self._rows.test])
    tests = np.unique(pairs, axis=1).shape[1]
    return (
      f'{self.version}: {len(self.variants):,} groups, {len(self.members):,} '
      f'puzzles, {self.members.sum():,} training examples, '
      f'{len(self.names):,} puzzle identifiers, {len(self._rows):,} examples '
      f'of {tests:,} test inputs held out'
    )

  def evaluation_rows(
    self, max_augmentations: int | None = None, max_puzzles: int | None = None
  ) -> EvaluationRows:
    rows = self._rows
    groups = int(rows.group.max(initial=-1)) + 1
    kept = np.isin(rows.group, sampler.spread(groups, max_puzzles))
    if max_augmentations is not None:
      # Rows of a test input stand together, in the order of its puzzles.
      kept &= rows.place() < max_augmentations
    return rows.take(np.flatnonzero(kept))

  def name_of(self, group: int) -> str:
    return super().name_of(group) if self.is_arc else f'test:{group}'

  def held_out(self, chosen: EvaluationRows) -> Ballots | Asked:
    if not self.is_arc:
      return self._test.asked(self.domain).take(chosen.example)
    return Ballots(
      self.evaluation_tasks,
      chosen.group,
      chosen.test,
      *self._augmentations(chosen.identifier),
    )

  def compared(self) -> NamedPairs | tuple[Asked, Asked]:
    if not len(self.variants) or not len(self._rows):
      return NamedPairs((), ())
    if self.is_arc:
      held_out = self.held_out_pairs()
      return NamedPairs(self.trained_pairs(held_out), held_out)
    return self._train.asked(self.domain), self._test.asked(self.domain)

  def trained_pairs(self, held_out: Sequence[NamedPair]) -> Iterator[NamedPair]:
    """The ARC pairs of all puzzles that training shows, as augmented.

    What cannot equal any of the held-out ones is left out.
    """
    suspects, split = leaks.Suspects(held_out), self._train
    for example in split.chunks():
      inputs, labels = split.read(example)
      for row in example[suspects.rows(inputs, padded(labels))]:
        puzzle = np.searchsorted(split.puzzle_indices, row, side='right') - 1
        yield self._named_pair(split, row, split.puzzle_identifiers[puzzle])

  def held_out_pairs(self) -> list[NamedPair]:
    """The ARC pairs of all puzzles that are scored, each of a task once."""
    return leaks.held_out_pairs(self.evaluation_tasks)

  def _named_pair(self, split: Split, row: int, identifier: int) -> NamedPair:
    name, *_ = encoding.parse_augmentation_name(self.names[identifier])
    (pair,) = split.pairs(np.array([row]))
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
    split = self._train
    puzzle = split.group_indices[examples.group] + examples.variant
    example = split.puzzle_indices[puzzle] + examples.member
    return self._batch(split, example, split.puzzle_identifiers[puzzle])

  def _evaluation_index(self, chosen: EvaluationRows) -> Batch:
    return self._batch(self._test, chosen.example, chosen.identifier)

  def _batch(
    self, split: Split, example: np.ndarray, identifier: np.ndarray
  ) -> Batch:
    names = ('inputs', 'labels', 'puzzle_identifiers')
    arrays = (*split.read(example), identifier.astype(np.int32))
    return dict(zip(names, arrays, strict=True))

  def _plain_rows(self) -> EvaluationRows:
    count = len(self._test.inputs)
    sizes = np.diff(self._test.puzzle_indices)
    identifier = np.repeat(self._test.puzzle_identifiers, sizes)
    number = np.arange(count)
    return EvaluationRows(number, np.zeros_like(number), identifier, number)

  def _arc_rows(self) -> EvaluationRows:
    """Examples by task and test pair; fills `evaluation_tasks`.

    Votes are pooled by the pair itself: a pair that no other puzzle of its task
    shows, both as written, is a test of its own, and so is each of several that
    are equal in one puzzle.
    """
    split, columns = self._test, []
    assert split
    puzzle = np.arange(len(split.puzzle_identifiers))
    puzzle = np.repeat(puzzle, np.diff(split.puzzle_indices))
    identifier = split.puzzle_identifiers[puzzle]
    # Of each task its number, and its tests, numbered, by their cells.
    tasks: dict[str, tuple[int, dict[tuple[bytes, int], tuple[int, Pair]]]] = {}
    last, copies = -1, collections.Counter[bytes]()
    for examples in split.chunks():
      written = self._as_written(split, examples, identifier[examples])
      for example, grids in zip(examples, written, strict=True):
        if puzzle[example] != last:
          last = puzzle[example]
          copies.clear()
          name, *_ = encoding.parse_augmentation_name(
            self.names[identifier[example]]
          )
          task, tests = tasks.setdefault(name, (len(tasks), {}))
        cells = grids.tobytes()
        copies[cells] += 1
        key = cells, copies[cells]
        if key not in tests:
          tests[key] = len(tests), _pair(grids)
        columns.append((task, tests[key][0], identifier[example], example))
    self.evaluation_tasks = [
      Task(name, (), tuple(pair for _, pair in tests.values()))
      for name, (_, tests) in tasks.items()
    ]
    rows = np.array(columns, np.int64)
    # Stable: the puzzles of a test input stay in the order of the file.
    rows = rows[np.lexsort((rows[:, 1], rows[:, 0]))]
    return EvaluationRows(*rows.T)

  def _as_written(
    self, split: Split, examples: np.ndarray, identifier: np.ndarray
  ) -> np.ndarray:
    """The pairs of examples, their augmentations undone.

    Returns:
      uint8 [B, 2, C, C], each grid at the top left, `encoding.OUTSIDE` around.
    """
    inputs, labels = split.read(examples)
    augmentations = self._augmentations(identifier)
    whole = inputs[:, 0] >= encoding.FIRST_COLOUR
    shape = (len(examples), 2, self._side, self._side)
    canvases = np.zeros(shape, np.uint8)
    for role, tokens in enumerate((inputs, padded(labels))):
      canvases[:, role], height, width = encoding.decode(
        tokens.astype(np.uint8), *augmentations
      )
      colours = (tokens >= encoding.FIRST_COLOUR).sum(axis=1)
      whole &= colours == height * width
    # What lies elsewhere on its canvas, or is no grid, which is an error.
    for row in np.flatnonzero(~whole):
      (pair,) = split.pairs(examples[[row]])
      canvases[row] = encoding.OUTSIDE
      for role, grid in enumerate((pair.input, pair.output)):
        if grid is not None:
          grid = encoding.deaugment(grid, *(x[row] for x in augmentations))
          canvases[row, role, : len(grid), : grid.shape[1]] = grid
    return canvases


def _pair(canvases: np.ndarray) -> Pair:
  """The grids of an example of `_as_written`."""
  question, answer = (
    canvas[: inside.any(axis=1).sum(), : inside.any(axis=0).sum()].copy()
    for canvas in canvases
    for inside in [canvas != encoding.OUTSIDE]
  )
  return Pair(question, answer if answer.size else None)


def _domain(vocab_size: int, seq_len: int, split: Split) -> Domain | None:
  """Guesses the domain of puzzles without names: the first one with their
  tokens and size whose checks the first rows pass."""
  first = np.arange(min(_ROWS_LOOKED_AT, len(split.inputs)))
  for domain in kinds.with_tokens(vocab_size, seq_len):
    if not domain.check(*(x.astype(np.uint8) for x in split.read(first))):
      return domain
  return None
