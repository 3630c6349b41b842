"""Encoding and decoding, against the words of the specification."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from data_pipelines.arc import encoding

IDENTITY = np.arange(10, dtype=np.uint8)

GRIDS = hnp.arrays(
  np.uint8,
  hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=7),
  elements=st.integers(0, 9),
)
COLOURS = st.permutations(range(1, 10)).map(
  lambda rest: np.array([0, *rest], np.uint8)
)
TRANSFORMS = st.integers(0, 7)


def largest_rectangle(canvas):
  """Tries every rectangle; of equal areas the one with fewer rows stays."""
  best = (0, 0)
  for height in range(1, len(canvas) + 1):
    for width in range(1, len(canvas) + 1):
      holds_only_colours = all(
        canvas[row][column] not in (0, 1)
        for row in range(height)
        for column in range(width)
      )
      if holds_only_colours and height * width > best[0] * best[1]:
        best = (height, width)
  return best


def decode_one(tokens, transform=0, colours=IDENTITY):
  """Decodes a flat canvas to a grid of its own size."""
  grids, heights, widths = encoding.decode(
    np.asarray(tokens, np.uint8).reshape(1, -1),
    np.array([transform]),
    np.array([colours]),
  )
  outside = np.ones(grids[0].shape, bool)
  outside[: heights[0], : widths[0]] = False
  assert (grids[0][outside] == encoding.OUTSIDE).all()
  return grids[0, : heights[0], : widths[0]]


def test_constants():
  assert (encoding.PAD, encoding.END, encoding.FIRST_COLOUR) == (0, 1, 2)
  assert (encoding.VOCAB_SIZE, encoding.CANVAS) == (12, 30)


@pytest.mark.parametrize(
  ('transform', 'expected'),
  [
    (0, [[1, 2, 3], [4, 5, 6]]),
    (1, [[3, 6], [2, 5], [1, 4]]),
    (2, [[6, 5, 4], [3, 2, 1]]),
    (3, [[4, 1], [5, 2], [6, 3]]),
    (4, [[3, 2, 1], [6, 5, 4]]),
    (5, [[4, 5, 6], [1, 2, 3]]),
    (6, [[1, 4], [2, 5], [3, 6]]),
    (7, [[6, 3], [5, 2], [4, 1]]),
  ],
)
def test_dihedral_by_hand(transform, expected):
  grid = np.array([[1, 2, 3], [4, 5, 6]])
  np.testing.assert_array_equal(encoding.dihedral(grid, transform), expected)
  np.testing.assert_array_equal(
    encoding.dihedral(np.array(expected), encoding.INVERSE_DIHEDRAL[transform]),
    grid,
  )


@pytest.mark.parametrize('transform', [-1, 8])
def test_unknown_dihedral(transform):
  with pytest.raises(ValueError, match=f'transform {transform} is not'):
    encoding.dihedral(np.zeros((2, 2)), transform)


def test_augment_by_hand():
  colours = np.array([0, 2, 3, 1, 4, 5, 6, 7, 8, 9], np.uint8)
  augmented = encoding.augment(np.array([[1, 2, 0]], np.uint8), 1, colours)
  np.testing.assert_array_equal(augmented, [[0], [3], [2]])
  assert augmented.dtype == np.uint8


@settings(deadline=None)
@given(grid=GRIDS, transform=TRANSFORMS, colours=COLOURS)
def test_deaugment_undoes_augment(grid, transform, colours):
  augmented = encoding.augment(grid, transform, colours)
  restored = encoding.deaugment(augmented, transform, colours)
  np.testing.assert_array_equal(restored, grid)
  assert restored.dtype == np.uint8


def test_names_by_hand():
  colours = np.array([0, 1, 5, 2, 3, 4, 6, 7, 8, 9], np.uint8)
  name = encoding.augmentation_name
  assert name('007bbfb7', 3, colours) == '007bbfb7_t3_0152346789'
  assert name('007bbfb7', 0, colours) == '007bbfb7_t0_0152346789'
  assert name('007bbfb7', 6, IDENTITY) == '007bbfb7_t6_0123456789'
  assert name('007bbfb7', 0, IDENTITY) == '007bbfb7'


@settings(deadline=None)
@given(
  task_name=st.sampled_from(['007bbfb7', 'my_own_task', 'a_t3_x', 'a b']),
  transform=TRANSFORMS,
  colours=COLOURS,
)
def test_names_can_be_read(task_name, transform, colours):
  name = encoding.augmentation_name(task_name, transform, colours)
  task, read_transform, read_colours = encoding.parse_augmentation_name(name)
  assert (task, read_transform) == (task_name, transform)
  np.testing.assert_array_equal(read_colours, colours)
  assert read_colours.dtype == np.uint8


def test_name_in_the_form_of_trm():
  task, transform, colours = encoding.parse_augmentation_name(
    'my_task|||t7|||0987654321'
  )
  assert (task, transform) == ('my_task', 7)
  np.testing.assert_array_equal(colours, [0, 9, 8, 7, 6, 5, 4, 3, 2, 1])


@pytest.mark.parametrize(
  'name',
  [
    'plain',
    'a_t8_0123456789',  # there is no transform 8
    'a_t3_1023456789',  # moves colour 0
    'a_t3_0113456789',  # not a permutation
    'a_t3_012345678',  # nine colours
    'a_t3_0123456789_b',  # not at the end
    'a_t3|||0123456789',  # neither form
  ],
)
def test_other_names_are_task_names(name):
  task, transform, colours = encoding.parse_augmentation_name(name)
  assert (task, transform) == (name, 0)
  np.testing.assert_array_equal(colours, IDENTITY)


def test_encode_by_hand():
  tokens = encoding.encode(np.array([[0, 9, 3], [1, 2, 0]], np.uint8), 5, 1, 1)
  assert tokens.dtype == np.uint8
  np.testing.assert_array_equal(
    tokens.reshape(5, 5),
    [
      [0, 0, 0, 0, 0],
      [0, 2, 11, 5, 1],
      [0, 3, 4, 2, 1],
      [0, 1, 1, 1, 0],
      [0, 0, 0, 0, 0],
    ],
  )


@pytest.mark.parametrize(
  ('row', 'column', 'expected'),
  [
    (1, 1, [[0, 0, 0], [0, 2, 2], [0, 2, 2]]),  # no room for either END
    (1, 0, [[0, 0, 0], [2, 2, 1], [2, 2, 1]]),
    (0, 1, [[0, 2, 2], [0, 2, 2], [0, 1, 1]]),
  ],
)
def test_end_is_drawn_where_it_fits(row, column, expected):
  tokens = encoding.encode(np.zeros((2, 2), np.uint8), 3, row, column)
  np.testing.assert_array_equal(tokens.reshape(3, 3), expected)


def test_full_canvas_has_no_end():
  grid = np.random.default_rng(0).integers(0, 10, (30, 30)).astype(np.uint8)
  tokens = encoding.encode(grid)
  np.testing.assert_array_equal(tokens, grid.ravel() + 2)
  np.testing.assert_array_equal(decode_one(tokens), grid)


@pytest.mark.parametrize(
  ('shape', 'row', 'column'),
  [
    ((4, 1), 0, 0),
    ((1, 4), 0, 0),
    ((2, 2), 2, 0),
    ((2, 2), 0, 2),
    ((1, 1), -1, 0),
    ((1, 1), 0, -1),
  ],
)
def test_grid_that_does_not_fit(shape, row, column):
  with pytest.raises(ValueError, match='does not fit a canvas of 3 x 3'):
    encoding.encode(np.zeros(shape, np.uint8), 3, row, column)


@settings(deadline=None)
@given(
  grid=GRIDS, transform=TRANSFORMS, colours=COLOURS, room=st.integers(0, 2)
)
def test_decode_undoes_encode(grid, transform, colours, room):
  tokens = encoding.encode(
    encoding.augment(grid, transform, colours), max(grid.shape) + room
  )
  np.testing.assert_array_equal(decode_one(tokens, transform, colours), grid)


@settings(deadline=None)
@given(
  canvas=st.integers(1, 6).flatmap(
    lambda side: hnp.arrays(
      np.uint8,
      (side, side),
      # Mostly colours, or most rectangles would be tiny.
      elements=st.sampled_from([0, 1, *range(2, 12), *range(2, 12)]),
    )
  ),
  transform=TRANSFORMS,
  colours=COLOURS,
)
def test_crop_is_the_largest_rectangle(canvas, transform, colours):
  height, width = largest_rectangle(canvas.tolist())
  crop = canvas[:height, :width] - 2
  np.testing.assert_array_equal(
    decode_one(canvas, transform, colours),
    encoding.deaugment(crop, transform, colours),
  )


@pytest.mark.parametrize(
  ('canvas', 'shape'),
  [
    ([[0, 2, 2], [2, 2, 2], [2, 2, 2]], (0, 0)),
    ([[1, 1, 1], [1, 1, 1], [1, 1, 1]], (0, 0)),
    ([[2, 0, 0], [0, 0, 0], [0, 0, 0]], (1, 1)),
    # 1 x 2 and 2 x 1 tie: the first maximum wins.
    ([[2, 2, 0], [2, 0, 0], [0, 0, 0]], (1, 2)),
    # The third row is wide, but the width never grows again.
    ([[2, 2, 2], [2, 0, 0], [2, 2, 2]], (1, 3)),
    ([[2, 2, 0], [2, 2, 2], [2, 2, 2]], (3, 2)),
  ],
)
def test_crop_by_hand(canvas, shape):
  assert decode_one(canvas).shape == shape


def test_decode_keeps_rows_apart():
  rng = np.random.default_rng(0)
  grids, tokens, transforms, colours = [], [], [], []
  for i in range(64):
    grid = rng.integers(0, 10, rng.integers(1, 7, 2)).astype(np.uint8)
    transform, permutation = i % 8, np.r_[0, 1 + rng.permutation(9)]
    grids.append(grid)
    tokens.append(
      encoding.encode(encoding.augment(grid, transform, permutation), 6)
    )
    transforms.append(transform)
    colours.append(permutation)
  decoded, heights, widths = encoding.decode(
    np.array(tokens), np.array(transforms), np.array(colours)
  )
  assert decoded.shape == (64, 6, 6)
  assert decoded.dtype == np.uint8
  for i, grid in enumerate(grids):
    assert (heights[i], widths[i]) == grid.shape
    expected = np.full((6, 6), 255)
    expected[: heights[i], : widths[i]] = grid
    np.testing.assert_array_equal(decoded[i], expected)


def test_decode_of_nothing():
  grids, heights, widths = encoding.decode(
    np.zeros((0, 9), np.uint8), np.zeros(0, np.uint8), np.zeros((0, 10), int)
  )
  assert grids.shape == (0, 3, 3)
  assert heights.shape == widths.shape == (0,)


def test_token_outside_of_the_vocabulary():
  with pytest.raises(ValueError, match='token 12 is not in the vocabulary'):
    decode_one([2, 2, 12, 2])
