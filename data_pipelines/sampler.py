"""The order of training examples, a function of (seed, position) alone."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

# Least number of batches that share a run of passes: few passes are cut short,
# and seeking inside a run stays cheap.
_MIN_RUN = 1024
# Groups whose examples are laid out at once: a set of millions takes no more
# memory, or time before its first batch, than its permutation does.
_CHUNK = 4096


class Examples(NamedTuple):
  """One batch as indices; all arrays have the batch's length."""

  group: np.ndarray  # a puzzle with its augmentations
  variant: np.ndarray  # augmentation of the group, 0 is the first
  member: np.ndarray  # example of the variant, e.g. a pair of an ARC task
  noise: np.ndarray  # float64 [B, 2] in [0, 1), for the pipeline's own draws

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

  Each group has at least one variant and each variant at least one member.
  `members` is that of the first group's variants, then of the second's, and so
  on; `seed` is that of everything that is drawn here.
  """

  variants: np.ndarray  # int [groups]
  members: np.ndarray  # int [sum of variants]
  batch_size: int
  seed: int

  @functools.cached_property
  def _first_variant(self) -> np.ndarray:
    return np.cumsum(self.variants) - self.variants

  @functools.cached_property
  def batches_per_run(self) -> int:
    """Batches until the random numbers change: at least 1024, and whole passes
    where groups are not cut (what is cut takes a little of a further pass)."""
    if all_equal(self.members):
      per_pass = len(self.variants) * int(self.members[0])
    else:
      of_group = np.add.reduceat(self.members, self._first_variant, dtype=float)
      per_pass = (of_group / self.variants).sum()
    passes = math.ceil(_MIN_RUN * self.batch_size / per_pass)
    return int(passes * per_pass / self.batch_size)

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
    for examples, first in self._chunks(run):
      group, groups = 0, len(first) - 1
      while group < groups:
        # Groups up to the one that fills the batch, which is cut.
        begin = first[group]
        group = min(int(np.searchsorted(first, begin + wanted)), groups)
        end = min(first[group], begin + wanted)
        parts.append(examples.rows(slice(begin, end)))
        wanted -= end - begin
        if not wanted:
          yield Examples(*map(np.concatenate, zip(*parts, strict=True)))
          parts, wanted = [], self.batch_size

  def _chunks(self, run: int) -> Iterator[tuple[Examples, np.ndarray]]:
    """The passes of a run, without end: examples of some groups after each
    other, and where each of these groups starts."""
    for number in itertools.count():
      rng = np.random.default_rng([self.seed, run, number])
      order = rng.permutation(len(self.variants))
      for begin in range(0, len(order), _CHUNK):
        group = order[begin : begin + _CHUNK]
        variant = rng.integers(0, self.variants[group])
        sizes = self.members[self._first_variant[group] + variant]
        first = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        place = np.repeat(np.arange(len(group)), sizes)
        # Sorting random keys inside each group shuffles its members.
        shuffled = np.lexsort((rng.random(len(place)), place))
        yield (
          Examples(
            group=group[place],
            variant=variant[place],
            member=shuffled - first[place],
            noise=rng.random((len(place), 2)),
          ),
          first,
        )


def all_equal(broadcast: np.ndarray) -> bool:
  """Whether an array is one number, told without looking at millions."""
  return broadcast.strides == (0,) and len(broadcast) > 0


def spread(count: int, wanted: int | None) -> np.ndarray:
  """At most `wanted` numbers below `count`, evenly spread; int64."""
  if wanted is None or wanted >= count:
    return np.arange(count)
  return np.arange(wanted) * count // wanted
