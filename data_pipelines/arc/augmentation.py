"""Draws the augmentations of every task, once, as a small table."""

import dataclasses
import itertools
import operator
import zlib
from collections.abc import Iterable, Sequence

import numpy as np

from data_pipelines import hashing
from data_pipelines.arc import encoding
from data_pipelines.arc.tasks import Task
from data_pipelines.batches import BLANK_NAME

# Draws per wanted augmentation: tasks with few colours or much symmetry have
# fewer distinct ones than wanted, and the search for them must end.
_TRIES = 5


@dataclasses.dataclass(frozen=True, eq=False)
class AugmentationTable:
  """Distinct augmentations of each task, the identity first.

  Rows of a task stand together, in the order of the tasks. Row i belongs to
  puzzle identifier i + 1; identifier 0 is blank.
  """

  start: np.ndarray  # int64 [tasks + 1], first row of each task
  dihedral: np.ndarray  # uint8 [rows], see `encoding.dihedral`
  colours: np.ndarray  # uint8 [rows, 10], see `encoding.augment`
  fixed_pair: np.ndarray  # int [rows], the pair that training never shifts

  def __len__(self) -> int:
    return len(self.dihedral)

  def names(self, tasks: Sequence[Task]) -> list[str]:
    """The name of each puzzle identifier, 0 included."""
    of_task = np.array([task.name for task in tasks], object)
    of_row = np.repeat(of_task, np.diff(self.start))
    rows = zip(of_row, self.dihedral, self.colours, strict=True)
    return [BLANK_NAME, *itertools.starmap(encoding.augmentation_name, rows)]


def named(tasks: Sequence[Task], names: Sequence[str]) -> AugmentationTable:
  """The augmentations that puzzle identifiers name, the identity first.

  The names are in HRM's form or TRM's. A task that none of them names gets no
  row, and those of other tasks are not used.

  Returns:
    The table for predictions; nothing is known of what training never shifts.
  """
  found = {task.name: list[tuple[bool, int, np.ndarray]]() for task in tasks}
  for name in names:
    task, transform, colours = encoding.parse_augmentation_name(name)
    if task in found:
      found[task].append((task != name, transform, colours))
  rows = [
    row
    for of_task in found.values()
    for row in sorted(of_task, key=operator.itemgetter(0))
  ]
  return AugmentationTable(
    start=np.cumsum([0, *map(len, found.values())]),
    dihedral=np.array([row[1] for row in rows], np.uint8),
    colours=np.array([row[2] for row in rows], np.uint8).reshape(
      -1, encoding.NUM_COLOURS
    ),
    fixed_pair=np.zeros(len(rows), np.uint8),
  )


def draw(
  tasks: Sequence[Task],
  training_pairs: Iterable[int],
  num_aug: int,
  seed: int,
) -> AugmentationTable:
  """The identity and up to `num_aug` distinct augmentations of each task.

  Two augmentations of a task are the same where they give the same multiset
  of pairs (a test pair counts by its input, so that a task has the same
  augmentations whether or not its answers are known). A task's draw depends on
  `seed`, its name and its pairs, not on the tasks beside it.

  `training_pairs` is the number of pairs of each task that training may show,
  of which one is drawn for each augmentation, never to be shifted.
  """
  drawn = []
  weights = _cell_weights()
  for task, pairs in zip(tasks, training_pairs, strict=True):
    rng = np.random.default_rng([seed, zlib.crc32(task.name.encode())])
    dihedral, colours = _candidates(rng, num_aug)
    hashes = _multiset_hashes(task, dihedral, colours, weights)
    _, first = np.unique(hashes, return_index=True)
    keep = np.sort(first)[: num_aug + 1]
    # A byte where it suffices: which numbers are drawn depends on the type.
    kind = np.uint8 if pairs < 256 else np.int64
    fixed = rng.integers(0, max(1, pairs), len(keep), dtype=kind)
    drawn.append((dihedral[keep], colours[keep], fixed))
  return AugmentationTable(
    np.cumsum([0, *(len(fixed) for *_, fixed in drawn)]),
    *map(np.concatenate, zip(*drawn, strict=True)),
  )


def _candidates(
  rng: np.random.Generator, num_aug: int
) -> tuple[np.ndarray, np.ndarray]:
  """The identity, then random dihedral transforms and permutations."""
  count = 1 + _TRIES * num_aug
  dihedral = rng.integers(0, 8, count, dtype=np.uint8)
  colours = np.tile(np.arange(encoding.NUM_COLOURS, dtype=np.uint8), (count, 1))
  colours[1:, 1:] = rng.permuted(colours[:, 1:], axis=1)[1:]
  dihedral[0] = 0
  return dihedral, colours


def _cell_weights() -> np.ndarray:
  """Random odd 64-bit weights: [input or output, row, column]."""
  shape = (2, encoding.CANVAS, encoding.CANVAS)
  weights = np.random.default_rng(0).integers(0, 2**63, shape, dtype=np.uint64)
  return weights * 2 + 1


def _multiset_hashes(
  task: Task, dihedral: np.ndarray, colours: np.ndarray, weights: np.ndarray
) -> np.ndarray:
  """A 64-bit hash of the multiset of pairs under each candidate, uint64.

  A grid's hash is Σ weight(cell) · (colour(cell) + 1) modulo 2⁶⁴, linear in the
  permutation, so that a dot product of ten numbers gives it for any
  permutation; the + 1 makes the grid's shape count.
  """
  total = np.zeros(len(dihedral), np.uint64)
  permutation = colours.astype(np.uint64) + 1
  counted = [pair.grids for pair in task.demonstrations]
  counted += [(pair.input,) for pair in task.tests]
  for grids in counted:
    by_colour = np.stack(
      [_weight_of_colours(grids, d, weights) for d in range(8)]
    )
    total += hashing.mix((by_colour[dihedral] * permutation).sum(axis=1))
  return total


def _weight_of_colours(
  grids: Sequence[np.ndarray], transform: int, weights: np.ndarray
) -> np.ndarray:
  """Sum of the weights of each colour's cells, uint64 [10]."""
  total = np.zeros(encoding.NUM_COLOURS, np.uint64)
  for grid, weight in zip(grids, weights, strict=False):
    turned = encoding.dihedral(grid, transform)
    height, width = turned.shape
    np.add.at(total, turned, weight[:height, :width])
  return total
