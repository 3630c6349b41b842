"""The interface of a set of puzzles: batches to train on and rows to score.

A *group* is a puzzle with its augmentations, a *variant* one of these (the
first is the puzzle itself), a *member* one example of a variant: a pair of
grids of an ARC task; Sudokus and mazes have a single one.
"""

import abc
import dataclasses
from collections.abc import Iterator, Sequence
from concurrent import futures
from typing import Any

import numpy as np

from data_pipelines import sampler
from data_pipelines.arc.tasks import NamedPairs, Task
from data_pipelines.arc.voting import Ballots
from data_pipelines.batches import BLANK_IDENTIFIER, BLANK_NAME, Batch
from data_pipelines.errors import DataError
from data_pipelines.questions.domain import Asked, Domain


@dataclasses.dataclass(frozen=True, eq=False)
class EvaluationRows:
  """Examples to be predicted; int64 arrays of one length."""

  group: np.ndarray  # index of the puzzle among those that are scored
  test: np.ndarray  # index of the puzzle's test input
  identifier: np.ndarray  # puzzle identifier to predict the row with
  example: np.ndarray  # number by which the set finds the row

  def __len__(self) -> int:
    return len(self.group)

  def take(self, index: np.ndarray) -> 'EvaluationRows':
    """Some of the rows."""
    fields = dataclasses.fields(self)
    return EvaluationRows(*(getattr(self, f.name)[index] for f in fields))

  def place(self) -> np.ndarray:
    """The number of each row among those of its test input, from 0; int."""
    changes = (np.diff(self.group) != 0) | (np.diff(self.test) != 0)
    first = np.r_[0, np.flatnonzero(changes) + 1]
    length = np.diff(np.r_[first, len(self)])
    return np.arange(len(self)) - np.repeat(first, length)


class PuzzleSet(abc.ABC):
  """Puzzles to train on and to be scored on."""

  version: str  # name of the data with a digest of their contents
  vocab_size: int  # number of tokens; token 0 is the padding
  seq_len: int  # S, number of cells of a puzzle
  domain: Domain | None = None  # kind of puzzles with one answer
  evaluation_tasks: Sequence[Task] = ()  # ARC tasks that are scored
  variants: np.ndarray  # int [groups], of each group to train on
  members: np.ndarray  # int [sum of variants], examples of each variant

  def recognise(self, recorded: str | None) -> None:
    """Takes on a version that older code, with other digests, recorded."""
    del recorded

  @property
  def examples_per_pass(self) -> float:
    """Number of groups × mean examples of a variant: the paper's epoch."""
    some = self.members[:1] if sampler.all_equal(self.members) else self.members
    return len(self.variants) * float(some.mean())

  @property
  def num_identifiers(self) -> int:
    """Puzzle identifiers, the blank one (0) included."""
    return 1

  def identifier_names(self) -> list[str]:
    """The name of each puzzle identifier."""
    return [BLANK_NAME]

  def name_of(self, group: int) -> str:
    """The name of a puzzle that is scored."""
    return self.evaluation_tasks[group].name

  @abc.abstractmethod
  def describe(self) -> str:
    """One line for the log."""

  def train_batches(
    self,
    batch_size: int,
    seed: int,
    position: int = 0,
    rows: slice = slice(None),
  ) -> Iterator[Batch]:
    """Training batches from `position` on: batch i depends on (seed, i) alone.

    Args:
      batch_size: number of rows of the global batch.
      seed: seed of the order, the augmentations chosen and the shifts.
      position: number of the first batch.
      rows: part of the global batch that this process feeds.

    Raises:
      DataError: there is nothing to train on.
    """
    if not len(self.variants):
      raise DataError('data.train is empty: nothing to train on; name a set')
    order = sampler.GroupSampler(self.variants, self.members, batch_size, seed)
    return self._batches(
      self._train_index(examples.rows(rows))
      for examples in order.batches(position)
    )

  def all_train_batches(self, batch_size: int, seed: int) -> Iterator[Batch]:
    """Every example once, in order, the first group's first variant at first.

    The last batch is filled up by repeating the last example. The seed is that
    of the shifts.
    """
    rng = np.random.default_rng(seed)
    first_variant = np.cumsum(self.variants) - self.variants
    end = np.cumsum(self.members, dtype=np.int64)

    def index(number):
      puzzle = np.searchsorted(end, number, side='right')
      group = np.searchsorted(first_variant, puzzle, side='right') - 1
      member = number - (end[puzzle] - self.members[puzzle])
      noise = rng.random((batch_size, 2))
      variant = puzzle - first_variant[group]
      return self._train_index(sampler.Examples(group, variant, member, noise))

    count = int(end[-1]) if len(end) else 0
    return self._batches(map(index, _in_order(count, batch_size)))

  def samples(self, count: int, seed: int) -> tuple[list[str], Batch, Batch]:
    """Training examples of so many groups, spread evenly, to be looked at.

    Returns:
      Their titles, the batch of them as they are, unaugmented and unshifted,
      and the batch of them as training shows them.
    """
    rng = np.random.default_rng(seed)
    group = sampler.spread(len(self.variants), count)
    # Not the puzzle itself, where there is another.
    variant = rng.integers(self.variants[group] > 1, self.variants[group])
    member = np.zeros_like(group)
    noise = rng.random((len(group), 2))
    originals, shown = (
      next(self._batches(iter([self._train_index(examples)])))
      for examples in (
        sampler.Examples(group, member, member, np.zeros_like(noise)),
        sampler.Examples(group, variant, member, noise),
      )
    )
    names = self.identifier_names()
    titles = [
      names[identifier]
      if identifier != BLANK_IDENTIFIER
      else f'puzzle {number}'
      for number, identifier in zip(
        group, shown['puzzle_identifiers'], strict=True
      )
    ]
    return titles, originals, shown

  @abc.abstractmethod
  def evaluation_rows(
    self, max_augmentations: int | None = None, max_puzzles: int | None = None
  ) -> EvaluationRows:
    """The rows that evaluation predicts, those of a test input together.

    They are of so many augmentations at most, the identity first, and of so
    many puzzles, spread evenly over the set.
    """

  def demonstration_rows(self) -> EvaluationRows:
    """Rows of the demonstrations of the ARC tasks that are scored, in order.

    Each is asked by the task itself, unaugmented; other puzzles have none.
    """
    return EvaluationRows(*np.zeros((4, 0), np.int64))

  def evaluation_batches(
    self, chosen: EvaluationRows, batch_size: int, rows: slice = slice(None)
  ) -> Iterator[Batch]:
    """Batches of `chosen` in order, never shifted.

    The last batch is filled up by repeating the last of the chosen rows.
    `labels` are those of the test outputs, none counted where an output is not
    known.
    """
    return self._batches(
      self._evaluation_index(chosen.take(number[rows]))
      for number in _in_order(len(chosen), batch_size)
    )

  def images(self, chosen: EvaluationRows, count: int) -> EvaluationRows:
    """So many symmetric images of each row, itself first, one after another.

    Raises:
      DataError: the puzzles have not so many.
    """
    if count > 1:
      raise DataError(
        f'symmetries={count} are for Sudokus and mazes; augmentations of ARC '
        'tasks vote without it'
      )
    return chosen

  def undo(self, tokens: np.ndarray, chosen: EvaluationRows) -> np.ndarray:
    """Answers to the rows themselves from those to `images` of them."""
    del chosen
    return tokens

  @abc.abstractmethod
  def held_out(self, chosen: EvaluationRows) -> Ballots | Asked:
    """What the predictions of `chosen` are scored with."""

  @abc.abstractmethod
  def compared(self) -> NamedPairs | tuple[Asked, Asked]:
    """Puzzles that are trained on and puzzles that are held out, to compare."""

  @abc.abstractmethod
  def _train_index(self, examples: sampler.Examples) -> Batch:
    """What `_batches` needs to make the batch of these examples."""

  @abc.abstractmethod
  def _evaluation_index(self, chosen: EvaluationRows) -> Batch:
    """What `_batches` needs to make the batch of these rows."""

  def _batches(self, indices: Iterator[Batch]) -> Iterator[Batch]:
    """The batches that `indices` describes: here, the batches themselves.

    The next one is made while this one is used.
    """
    with futures.ThreadPoolExecutor(1) as pool:
      ready = pool.submit(next, indices, None)
      while (batch := ready.result()) is not None:
        ready = pool.submit(next, indices, None)
        yield batch


def _in_order(count: int, batch_size: int) -> Iterator[np.ndarray]:
  """Numbers below `count` in batches; the last one's are repeated."""
  for begin in range(0, count, batch_size):
    yield np.minimum(np.arange(begin, begin + batch_size), count - 1)


def version_of(train: Any, evaluate: Any) -> str:
  """Which data exactly a set is made of: the versions of its sources.

  Each has a `version`, or is None.
  """
  sources = {'train': train, 'evaluate': evaluate}
  return '; '.join(f'{role} {x.version}' for role, x in sources.items() if x)
