"""The leak check: made-up pairs, and what leaks in ARC-1 and ARC-2."""

import itertools
import time

import numpy as np
import pytest

from data_pipelines.arc import encoding, leaks
from data_pipelines.arc import tasks as arc
from data_pipelines.leaks import Leak

INPUT = np.array([[0, 0, 1], [2, 0, 3]], np.uint8)
OUTPUT = np.array([[1, 1], [0, 4], [4, 0]], np.uint8)
# A place of 0 that it has in no augmentation of training.
PERMUTATION = np.array([7, 3, 9, 0, 1, 8, 2, 6, 5, 4], np.uint8)


def _named(task, place, inputs, output):
  grids = (
    None if g is None else np.array(g, np.uint8) for g in (inputs, output)
  )
  return arc.NamedPair(task, place, arc.Pair(*grids))


def _of(tasks, demonstrations=True, tests=True):
  return [
    arc.NamedPair(task.name, f'{kind}[{i}]', pair)
    for task in tasks
    for kind, pairs in (
      ('train', task.demonstrations if demonstrations else ()),
      ('test', task.tests if tests else ()),
    )
    for i, pair in enumerate(pairs)
  ]


def _kinds(trained, held_out):
  """The kinds of leaks between pairs of grids: one trained, one held out."""
  found = leaks.between_pairs(
    [_named('t', 'train[0]', *trained)], [_named('e', 'test[0]', *held_out)]
  )
  assert len(found) <= 1
  return ''.join(leak.kind for leak in found)


# Made-up pairs.


@pytest.mark.parametrize('transform', range(8))
@pytest.mark.parametrize('colours', [np.arange(10), PERMUTATION])
def test_turned_and_recoloured(transform, colours):
  pair = [colours[encoding.dihedral(g, transform)] for g in (INPUT, OUTPUT)]
  assert _kinds((INPUT, OUTPUT), pair) == 'both'
  assert _kinds((INPUT, OUTPUT), (pair[0], None)) == 'question'
  assert _kinds((INPUT, OUTPUT), (pair[0], [[1, 2, 3, 4]])) == 'input'
  assert _kinds((INPUT, OUTPUT), ([[1, 2, 3, 4]], pair[1])) == 'output'
  # Input and output do not change places.
  assert _kinds((INPUT, OUTPUT), (pair[1], pair[0])) == ''


@pytest.mark.parametrize('which', [0, 1])
@pytest.mark.parametrize('cell', range(6))
def test_a_changed_cell(which, cell):
  pair = [INPUT.copy(), OUTPUT.copy()]
  # Another colour that the grid has too, so that no permutation undoes it.
  pair[which].flat[cell] = pair[which].flat[cell] == 0
  assert _kinds((INPUT, OUTPUT), pair) == ('output', 'input')[which]


def test_input_and_output_must_be_changed_alike():
  # Turned or recoloured one without the other, both are still the same alone.
  turned = (np.rot90(INPUT), np.rot90(OUTPUT, 2))
  assert _kinds((INPUT, OUTPUT), turned) == 'output'
  recoloured = (INPUT, PERMUTATION[OUTPUT])
  assert _kinds((INPUT, OUTPUT), recoloured) == 'output'
  # Two colours of the output become one.
  assert _kinds((INPUT, [[1, 2]]), (INPUT, [[1, 1]])) == 'input'


def test_shapes_count():
  row = np.array([[0, 1, 0, 2, 0, 3]], np.uint8)
  assert _kinds((row, OUTPUT), (row.reshape(2, 3), [[5]])) == ''
  assert _kinds((row, OUTPUT), (row.reshape(6, 1), [[5]])) == 'input'


def test_grids_of_one_colour_tell_nothing():
  for grid in ([[5]], [[0, 0], [0, 0]]):
    assert _kinds((grid, OUTPUT), (grid, INPUT)) == ''
    assert _kinds((INPUT, grid), (OUTPUT, grid)) == ''
    assert _kinds((grid, OUTPUT), (grid, None)) == ''
    assert _kinds((grid, OUTPUT), (grid, OUTPUT)) == 'both'
  assert _kinds(([[1, 1]], [[2]]), ([[3, 3]], [[4]])) == 'both'
  assert _kinds(([[1, 1]], [[2]]), ([[3, 3]], [[3]])) == ''


def test_unknown_outputs():
  assert _kinds((INPUT, None), (INPUT, OUTPUT)) == 'input'
  assert _kinds((INPUT, None), (INPUT, None)) == 'question'
  assert _kinds((INPUT, OUTPUT), (OUTPUT, None)) == ''


def test_the_worst_of_each_trained_task_at_its_first_place():
  other = [[1, 2, 3, 4]]
  trained = [
    _named('b', 'train[0]', INPUT, other),
    _named('b', 'train[1]', np.rot90(INPUT), np.rot90(OUTPUT)),
    _named('b', 'test[0]', INPUT, OUTPUT),
    _named('a', 'train[0]', INPUT, other),
    _named('a', 'train[1]', other, OUTPUT),
    _named('none', 'train[0]', other, INPUT),
    _named('c', 'train[0]', other, other),
    _named('c', 'train[1]', np.flip(INPUT), other),
    _named('c', 'test[0]', INPUT, None),
  ]
  held_out = [
    _named('z', 'test[0]', INPUT, OUTPUT),
    _named('y', 'test[0]', [[1, 2]], [[1], [2]]),
    _named('y', 'test[1]', INPUT, None),
  ]
  assert leaks.between_pairs(trained, held_out) == [
    Leak('z', 'test[0]', 'b', 'train[1]', 'both'),
    Leak('z', 'test[0]', 'a', 'train[1]', 'output'),
    Leak('z', 'test[0]', 'c', 'train[1]', 'input'),
    Leak('y', 'test[1]', 'b', 'train[0]', 'question'),
    Leak('y', 'test[1]', 'a', 'train[0]', 'question'),
    Leak('y', 'test[1]', 'c', 'train[1]', 'question'),
  ]
  for shuffled in itertools.permutations(held_out):
    found = leaks.between_pairs(trained[::-1], shuffled)
    assert {
      (x.held_out, x.held_out_place, x.trained, x.kind) for x in found
    } == {
      (x.held_out, x.held_out_place, x.trained, x.kind)
      for x in leaks.between_pairs(trained, held_out)
    }
  assert leaks.between_pairs([], held_out) == []
  assert leaks.between_pairs(trained, []) == []


def _same(ours, theirs):
  """Slowly: some transform, and then a mapping of colours, does it."""
  for transform in range(8):
    turned = [encoding.dihedral(g, transform) for g in ours]
    if [g.shape for g in turned] != [g.shape for g in theirs]:
      continue
    mapped = {
      (int(a), int(b))
      for g, h in zip(turned, theirs, strict=True)
      for a, b in zip(g.flat, h.flat, strict=True)
    }
    befores, afters = zip(*mapped, strict=True)
    if len(set(befores)) == len(set(afters)) == len(mapped):
      return True
  return False


def test_small_pairs_against_the_definition():
  rng = np.random.default_rng(0)

  def grid():
    return rng.integers(0, 3, rng.integers(1, 3, 2), dtype=np.uint8)

  pairs = [(grid(), grid()) for _ in range(120)]
  counts = dict.fromkeys(('both', 'output', 'input', ''), 0)
  for ours, theirs in itertools.product(pairs[:60], pairs[60:]):
    if _same(ours, theirs):
      expected = 'both'
    elif np.ptp(theirs[1]) and _same(ours[1:], theirs[1:]):
      expected = 'output'
    elif np.ptp(theirs[0]) and _same(ours[:1], theirs[:1]):
      expected = 'input'
    else:
      expected = ''
    assert _kinds(ours, theirs) == expected, (ours, theirs)
    counts[expected] += 1
  assert min(counts.values()) > 20, counts


# The real sets.

# Seven held-out tests that a demonstration of their own task shows, turned or
# recoloured (none as it is), and two that another task has.
ARC1_BOTH = [
  ('00576224', 'test[0]', '00576224', 'train[1]'),
  ('070dd51e', 'test[0]', '40853293', 'test[0]'),
  ('3979b1a8', 'test[0]', '3979b1a8', 'train[0]'),
  ('50a16a69', 'test[0]', 'caa06a1f', 'train[2]'),
  ('66e6c45b', 'test[0]', '66e6c45b', 'train[0]'),
  ('94414823', 'test[0]', '94414823', 'train[0]'),
  ('992798f6', 'test[0]', '992798f6', 'train[3]'),
  ('ca8de6ea', 'test[0]', 'ca8de6ea', 'train[0]'),
  ('f3e62deb', 'test[0]', 'f3e62deb', 'train[3]'),
]


@pytest.fixture(scope='module')
def evaluation():
  tasks = arc.load_tasks('arc1:evaluation').tasks
  return _of(tasks, tests=False), _of(tasks, demonstrations=False)


def _count(found, what):
  return sum(leak.kind == what for leak in found)


def test_arc1_evaluation_in_arc2_training(evaluation):
  start = time.monotonic()
  trained = _of(arc.load_tasks('arc2:training').tasks)
  found = leaks.between_pairs(trained, evaluation[1])
  assert time.monotonic() - start < 10
  both = [leak for leak in found if leak.kind == 'both']
  assert len({leak.held_out for leak in both}) == 376
  # The one under another name is both a leak of ARC-1 and of ARC-2.
  assert [x.trained for x in both if x.trained != x.held_out] == ['caa06a1f']
  assert [_count(found, k) for k in ('both', 'output', 'input')] == [
    396,
    66,
    34,
  ]


def test_inside_arc1(evaluation):
  demonstrations, tests = evaluation
  trained = _of(arc.load_tasks('arc1:training').tasks) + demonstrations
  found = leaks.between_pairs(trained, tests)
  assert [
    (x.held_out, x.held_out_place, x.trained, x.trained_place)
    for x in found
    if x.kind == 'both'
  ] == ARC1_BOTH
  assert (_count(found, 'output'), _count(found, 'input')) == (70, 30)
  assert len({x.held_out for x in found if x.kind == 'output'}) == 25
  assert len({x.held_out for x in found if x.kind == 'input'}) == 11


def test_inside_arc2():
  tasks = arc.load_tasks('arc2:evaluation').tasks
  trained = _of(arc.load_tasks('arc2:training').tasks)
  trained += _of(tasks, tests=False)
  found = leaks.between_pairs(trained, _of(tasks, demonstrations=False))
  assert found == [
    Leak('269e22fb', 'test[0]', '269e22fb', 'train[0]', 'output'),
    Leak('269e22fb', 'test[1]', '269e22fb', 'train[0]', 'output'),
    Leak('89565ca0', 'test[0]', 'b7999b51', 'test[0]', 'output'),
  ]
