"""Which held-out pairs of ARC tasks can be reached from the trained ones.

Tasks are compared pair by pair, whatever their names, order and files: most of
ARC-1's evaluation tasks are in ARC-2's training tasks with their demonstrations
in another order.

Two pairs are the same where one of the eight dihedral transforms and one
permutation of the colours, each applied to input and output alike, turn one
into the other. Training shows pairs under all transforms and under the
permutations that leave 0 where it is; here 0 may change its place with another
colour too. So a leak is found where the background was recoloured as well.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from data_pipelines import hashing
from data_pipelines.arc import encoding
from data_pipelines.arc.tasks import (
  MAX_SIDE,
  NUM_COLOURS,
  NamedPair,
  Pair,
  Task,
)
from data_pipelines.leaks import Leak

# What may be the same, the worst first. An answer without its question lies
# nearer to the held-out answer than the question with another answer does.
_KINDS = ('both', 'output', 'input')

_COLOURS = tuple(bytes([colour]) for colour in range(NUM_COLOURS))
# Counts of a colour in an input and in an output, as one number.
_SECOND = MAX_SIDE**2 + 1


def trained_pairs(tasks: Iterable[Task], whole: bool) -> list[NamedPair]:
  """The demonstrations of tasks, or all of their pairs that have an output."""
  pairs = []
  for task in tasks:
    pairs += _named(task.name, 'train', task.demonstrations)
    if whole:
      tests = held_out_pairs([task])
      pairs += [named for named in tests if named.pair.output is not None]
  return pairs


def held_out_pairs(tasks: Iterable[Task]) -> list[NamedPair]:
  """The test pairs of tasks."""
  return [
    named for task in tasks for named in _named(task.name, 'test', task.tests)
  ]


def _named(task: str, kind: str, pairs: Iterable[Pair]) -> list[NamedPair]:
  return [NamedPair(task, f'{kind}[{i}]', x) for i, x in enumerate(pairs)]


def between_pairs(
  trained: Iterable[NamedPair], held_out: Sequence[NamedPair]
) -> list[Leak]:
  """Compares every held-out pair with every trained one.

  A held-out pair and a trained task give one leak at most, the worst: `both`,
  else `output` (the answer, under another input), else `input` (with another
  answer) or `question` (the answer not being known). A single grid of one
  colour, 1 x 1 among them, tells nothing and is no leak by itself, though a
  pair of two such grids may be.

  Where its output is not known, a held-out pair can leak by its input only, and
  then its answer may be reached. `trained` holds the demonstrations of held-out
  tasks too.

  Returns:
    The leaks in the order of `held_out`, and for each pair of `trained`.
  """
  # Canonical forms take the time, so only pairs of which some part has the
  # same shape and counts of colours as a held-out part are given one.
  wanted = {
    (kind, _signature(grids))
    for named in held_out
    for kind, grids in _parts(named.pair)
  }
  # The first place in each trained task of each canonical form.
  places: dict[tuple[str, bytes], dict[str, str]] = {}
  order: dict[str, int] = {}
  for named in trained:
    order.setdefault(named.task, len(order))
    for kind, grids in _parts(named.pair):
      if (kind, _signature(grids)) in wanted:
        same = places.setdefault((kind, _canonical(grids)), {})
        same.setdefault(named.task, named.place)

  leaks = []
  for named in held_out:
    found: dict[str, Leak] = {}
    for kind, grids in _parts(named.pair):
      same = places.get((kind, _canonical(grids)), {})
      for task, place in same.items():
        worst = 'question' if named.pair.output is None else kind
        leak = Leak(named.task, named.place, task, place, worst)
        found.setdefault(task, leak)
    leaks += sorted(found.values(), key=lambda leak: order[leak.trained])
  return leaks


def _parts(pair: Pair) -> Iterator[tuple[str, tuple[np.ndarray, ...]]]:
  """What of a pair is compared: the kind and its grids, the worst first."""
  grids: dict[str, tuple[np.ndarray, ...]] = {'input': (pair.input,)}
  if pair.output is not None:
    grids['both'] = (pair.input, pair.output)
    grids['output'] = (pair.output,)
  for kind in _KINDS:
    if kind in grids and (kind == 'both' or np.ptp(grids[kind][0])):
      yield kind, grids[kind]


def _signature(grids: Sequence[np.ndarray]) -> tuple:
  """A rough form that no transform and no permutation changes."""
  shapes = tuple(tuple(sorted(grid.shape)) for grid in grids)
  return shapes, _sorted_counts(grids).tobytes()


def _sorted_counts(grids: Sequence[np.ndarray]) -> np.ndarray:
  """How often each colour is there, in no order of the colours, int64 [10]."""
  counts = sum(
    _SECOND**i * np.bincount(grid.ravel(), minlength=NUM_COLOURS)
    for i, grid in enumerate(grids)
  )
  return np.sort(counts)


class Suspects:
  """Tells from counts of colours which canvases may show a held-out pair.

  A directory may hold millions of canvases, of which few are worth a look.
  """

  def __init__(self, held_out: Iterable[NamedPair]):
    counts = [
      _sorted_counts(grids)
      for named in held_out
      for _, grids in _parts(named.pair)
    ]
    self._hashes = _hash_rows(np.reshape(counts, (-1, NUM_COLOURS)))

  def rows(self, inputs: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    """The rows of pairs of canvases, tokens [B, S], that need a look; int64."""
    first, second = _count_rows(inputs), _count_rows(outputs)
    hashes = [
      _hash_rows(np.sort(counts, axis=1))
      for counts in (first, second, first + _SECOND * second)
    ]
    return np.flatnonzero(np.isin(hashes, self._hashes).any(axis=0))


def _count_rows(tokens: np.ndarray) -> np.ndarray:
  """How often each colour is in each row of tokens, int64 [B, 10]."""
  size = encoding.VOCAB_SIZE
  start = size * np.arange(len(tokens))[:, None]
  counts = np.bincount((tokens + start).ravel(), minlength=size * len(tokens))
  return counts.reshape(-1, size)[:, encoding.FIRST_COLOUR :]


def _hash_rows(counts: np.ndarray) -> np.ndarray:
  """A hash of each row of numbers, uint64."""
  total = np.zeros(len(counts), np.uint64)
  for column in counts.T:
    total = hashing.mix(total + hashing.GOLDEN + column.astype(np.uint64))
  return total


def _canonical(grids: Sequence[np.ndarray]) -> bytes:
  """The same for grids that are the same, and for no others."""
  forms = []
  for transform in range(8):
    turned = [encoding.dihedral(grid, transform) for grid in grids]
    shapes = np.array([grid.shape for grid in turned]).tobytes()
    cells = b''.join(grid.tobytes() for grid in turned)
    # Colours are numbered by where they come first; those that are not there
    # (-1) have no number to take.
    colours = sorted((c for c in _COLOURS if c in cells), key=cells.index)
    table = bytes.maketrans(b''.join(colours), bytes(range(len(colours))))
    forms.append(shapes + cells.translate(table))
  return min(forms)
