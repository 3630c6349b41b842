"""The order of training examples, a function of (seed, position) alone."""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

# Batches that share a run of passes, at the least: few passes are cut short,
# and seeking inside a run stays cheap.
_MIN_RUN = 1024


class Examples(NamedTuple):
  """One batch as indices; all arrays have the batch's length.

  Attributes:
    group: the task.
    variant: augmentation of the task, 0 is the first.
    member: pair of the task.
    noise: float64 [B, 2] in [0, 1), for the pipeline's own draws.
  """

  group: np.ndarray
  variant: np.ndarray
  member: np.ndarray
  noise: np.ndarray

  def rows(self, rows: slice) -> 'Examples':
    """The part of the batch that a process feeds."""
    return Examples(*(array[rows] for array in self))


@dataclasses.dataclass(frozen=True, eq=False)
class GroupSampler:
  """Batches in the published grouping.

  In a pass each group comes once, in random order, by one of its variants,
  with its members in random order until the batch is full: a group that does
  not fit is cut, and the next batch starts with the next group. Passes follow
  each other without a gap inside a run of `batches_per_run` batches; at the
  end of a run the rest of the pass is dropped, as the published loader drops
  its last partial batch. Each run has random numbers of its own, so that a
  position is found by index arithmetic inside one run.

  Attributes:
    members: int [groups], number of members (at least 1).
    variants: int [groups], number of variants (at least 1).
    batch_size: global.
    seed: of everything drawn here.
  """

  members: np.ndarray
  variants: np.ndarray
  batch_size: int
  seed: int

  @property
  def batches_per_run(self) -> int:
    """Batches until the random numbers change: at least 1024, and whole passes
    where groups are not cut (what is cut takes a little of a further pass)."""
    per_pass = int(self.members.sum())
    passes = -(-_MIN_RUN * self.batch_size // per_pass)
    return passes * per_pass // self.batch_size

  def batches(self, position: int) -> Iterator[Examples]:
    """All batches from `position` on, without end."""
    first_run, skipped = divmod(position, self.batches_per_run)
    for run in itertools.count(first_run):
      batches = itertools.islice(self._run(run), self.batches_per_run)
      yield from itertools.islice(batches, skipped, None)
      skipped = 0

  def _run(self, run: int) -> Iterator[Examples]:
    """The batches of one run, without end."""
    parts, wanted = [], self.batch_size
    for number in itertools.count():
      examples, first = self._pass(run, number)
      group = 0
      while group < len(self.members):
        # Groups up to the one that fills the batch, which is cut.
        begin = first[group]
        group = int(np.searchsorted(first, begin + wanted))
        group = min(group, len(self.members))
        end = min(first[group], begin + wanted)
        parts.append(examples.rows(slice(begin, end)))
        wanted -= end - begin
        if not wanted:
          yield Examples(*map(np.concatenate, zip(*parts, strict=True)))
          parts, wanted = [], self.batch_size

  def _pass(self, run: int, number: int) -> tuple[Examples, np.ndarray]:
    """All examples of one pass, and where each of its groups starts."""
    rng = np.random.default_rng([self.seed, run, number])
    order = rng.permutation(len(self.members))
    sizes = self.members[order]
    first = np.concatenate([[0], np.cumsum(sizes)])
    place = np.repeat(np.arange(len(order)), sizes)
    # Sorting random keys inside each group shuffles its members.
    shuffled = np.lexsort((rng.random(len(place)), place))
    variant = rng.integers(0, self.variants[order])
    return Examples(
      group=order[place],
      variant=variant[place],
      member=shuffled - first[place],
      noise=rng.random((len(place), 2)),
    ), first
