"""From a grid to tokens and back: augmentations, the canvas, the crop.

An augmentation of a task is one of eight dihedral transforms and a permutation
of the colours that leaves 0 where it is. A grid, augmented or not, becomes a
row of tokens by being put on a square canvas; a predicted row of tokens becomes
a grid again by the inverse of both steps.

Shape letters: N predictions, C canvas side, S = C * C cells of a canvas.
"""

import math
import re

import numpy as np

from data_pipelines.arc.tasks import NUM_COLOURS
from data_pipelines.batches import PAD

END = 1
FIRST_COLOUR = 2
VOCAB_SIZE = FIRST_COLOUR + NUM_COLOURS
CANVAS = 30

# What decoded canvases hold outside of their grid.
OUTSIDE = 255

# The transform that undoes transform i.
INVERSE_DIHEDRAL = (0, 3, 2, 1, 4, 5, 6, 7)

# TASK_t3_0152... as HRM writes it, TASK|||t3|||0152... as TRM does.
_NAME = re.compile(r'(.+)(_|\|\|\|)t([0-7])\2(0[1-9]{9})', re.DOTALL)


def dihedral(grid: np.ndarray, transform: int) -> np.ndarray:
  """Turns or mirrors a grid.

  Args:
    grid: [..., h, w]; the last two axes are transformed.
    transform: 0 identity, 1-3 counter-clockwise turns by as many quarters,
      4 left-right, 5 up-down, 6 transpose, 7 a quarter turn, then left-right.

  Returns:
    [..., h, w], or [..., w, h] for 1, 3, 6 and 7; may be a view.

  Raises:
    ValueError: there is no such transform.
  """
  match transform:
    case 0 | 1 | 2 | 3:
      return np.rot90(grid, transform, axes=(-2, -1))
    case 4:
      return np.flip(grid, -1)
    case 5:
      return np.flip(grid, -2)
    case 6:
      return np.swapaxes(grid, -2, -1)
    case 7:
      return np.flip(np.rot90(grid, axes=(-2, -1)), -1)
  raise ValueError(f'dihedral transform {transform} is not one of 0 to 7')


def augment(
  grid: np.ndarray, transform: int, colours: np.ndarray
) -> np.ndarray:
  """Transforms a grid, then replaces each colour c by `colours[c]`.

  `grid`, [..., h, w], and `transform` are as for `dihedral`; `colours`, [10],
  is a permutation with `colours[0] == 0`. The new array has its dtype.
  """
  return np.asarray(colours)[dihedral(grid, transform)]


def deaugment(
  grid: np.ndarray, transform: int, colours: np.ndarray
) -> np.ndarray:
  """Undoes `augment`; the arguments are those that `augment` was given."""
  colours = np.asarray(colours)
  inverse = np.argsort(colours).astype(colours.dtype)
  return inverse[dihedral(grid, INVERSE_DIHEDRAL[transform])]


def augmentation_name(
  task_name: str, transform: int, colours: np.ndarray, separator: str = '_'
) -> str:
  """Names an augmented task: `TASK_t3_0152...`.

  The parts are the task's name, the transform and the ten digits `colours[0]`
  ... `colours[9]`, separated by '_' as in HRM or '|||' as in TRM. The identity
  has the task's own name.
  """
  digits = ''.join(str(int(colour)) for colour in colours)
  if transform == 0 and digits == '0123456789':
    return task_name
  return separator.join((task_name, f't{int(transform)}', digits))


def parse_augmentation_name(name: str) -> tuple[str, int, np.ndarray]:
  """Reads the name of an augmented task, HRM's form or TRM's.

  Returns:
    The task's name, the dihedral transform and the colours, uint8 [10]. A
    name without a proper augmentation at its end is a task's own name, which
    comes back whole with the identity.
  """
  match = _NAME.fullmatch(name)
  if match is None or len(set(match[4])) != NUM_COLOURS:
    return name, 0, np.arange(NUM_COLOURS, dtype=np.uint8)
  return match[1], int(match[3]), np.array([*match[4]]).astype(np.uint8)


def encode(
  grid: np.ndarray, canvas: int = CANVAS, row: int = 0, column: int = 0
) -> np.ndarray:
  """Puts a grid on a canvas and marks where it ends.

  Colour c becomes token c + 2. A row of END lies under the grid over its
  width, a column of END right of it over its height, each where the canvas has
  room for it. The cell where the two would meet stays PAD, as all the rest.

  Args:
    grid: [h, w] of colours 0 to 9.
    canvas: C, side of the canvas, cells.
    row: canvas row of the grid's top edge.
    column: canvas column of the grid's left edge.

  Returns:
    Tokens, uint8 [C * C], row by row.

  Raises:
    ValueError: the grid reaches over the canvas's edge.
  """
  height, width = grid.shape
  bottom, right = row + height, column + width
  if min(row, column) < 0 or max(bottom, right) > canvas:
    raise ValueError(
      f'a {height} x {width} grid at ({row}, {column}) does not fit a canvas '
      f'of {canvas} x {canvas}'
    )
  tokens = np.full((canvas, canvas), PAD, np.uint8)
  tokens[row:bottom, column:right] = grid + FIRST_COLOUR
  # A slice that starts at the canvas's edge is empty: nothing is drawn there.
  tokens[bottom : bottom + 1, column:right] = END
  tokens[row:bottom, right : right + 1] = END
  return tokens.reshape(-1)


def uncover(tokens: np.ndarray) -> np.ndarray | None:
  """Undoes `encode`, wherever on the canvas, [C * C], the grid was put.

  Returns:
    The grid, uint8 [h, w]; None where the canvas is all padding.

  Raises:
    ValueError: there is something else on the canvas than one grid.
  """
  side = math.isqrt(len(tokens))
  canvas = np.asarray(tokens).reshape(side, side)
  covered = canvas != PAD
  if not covered.any():
    return None
  row, column = covered.any(axis=1).argmax(), covered.any(axis=0).argmax()
  part = canvas[row:, column:]
  edges = (part[:, 0] >= FIRST_COLOUR, part[0] >= FIRST_COLOUR)
  height, width = (int(edge.argmin()) or len(edge) for edge in edges)
  grid = part[:height, :width].astype(np.int64) - FIRST_COLOUR
  if grid.min() < 0 or grid.max() >= NUM_COLOURS:
    raise ValueError('its canvas does not hold one grid of colours')
  grid = grid.astype(np.uint8)
  if not np.array_equal(encode(grid, side, row, column), tokens):
    raise ValueError('its canvas does not hold one grid with end-of-grid marks')
  return grid


def _crop(tokens_NCC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Heights and widths, [N] each, of the largest rectangles of colours at the
  canvases' top left.

  Of rectangles with the same area the one with fewer rows wins; (0, 0) where
  the corner cell holds no colour.
  """
  count, canvas, _ = tokens_NCC.shape
  blank_NCC = tokens_NCC < FIRST_COLOUR
  # Colours before the first blank of each row; argmax says 0 for none as well.
  run_NC = blank_NCC.argmax(axis=2)
  run_NC[(run_NC == 0) & ~blank_NCC[:, :, 0]] = canvas
  # The widest rectangle of r rows is as wide as the shortest of their runs.
  width_NC = np.minimum.accumulate(run_NC, axis=1)
  last_row_N = (width_NC * np.arange(1, canvas + 1)).argmax(axis=1)
  width_N = width_NC[np.arange(count), last_row_N]
  return np.where(width_N > 0, last_row_N + 1, 0), width_N


def decode(
  tokens_NS: np.ndarray, dihedral_N: np.ndarray, colours_N10: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Turns predicted tokens into grids of the task as it was written.

  The crop is the largest rectangle at the canvas's top left, by area, without
  PAD or END; then the augmentation of each prediction is undone. The inverse
  of `encode` at (0, 0) after `augment`. Give it the predictions of one test
  input at a time, tokens uint8, and they stay in the cache.

  Returns:
    Grids, uint8 [N, C, C], each at the top left and `OUTSIDE` (255) elsewhere,
    so that equal grids are equal arrays; and the rows and columns of each, [N].
    A prediction may be 0 x 0.

  Raises:
    ValueError: a token is not in the vocabulary.
  """
  count, size = tokens_NS.shape
  canvas = math.isqrt(size)
  if count and tokens_NS.max() >= VOCAB_SIZE:
    raise ValueError(
      f'token {tokens_NS.max()} is not in the vocabulary of {VOCAB_SIZE}'
    )
  tokens_NCC = tokens_NS.reshape(count, canvas, canvas)
  height_N, width_N = _crop(tokens_NCC)

  side = np.arange(canvas)
  inside_NCC = side[:, None] < height_N[:, None, None]
  inside_NCC = inside_NCC & (side < width_N[:, None, None])
  # One table for each prediction: token -> original colour. What lies outside
  # of the crop was multiplied to PAD and so becomes OUTSIDE.
  table_NV = np.full((count, VOCAB_SIZE), OUTSIDE, np.uint8)
  table_NV[:, FIRST_COLOUR:] = np.argsort(colours_N10, axis=1)
  table_start_N11 = VOCAB_SIZE * np.arange(count)[:, None, None]
  grids_NCC = table_NV.ravel()[tokens_NCC * inside_NCC + table_start_N11]

  # Whole canvases are turned at once, which moves a grid away from the top
  # left. In a flat canvas the way back is a single shift, to the first cell of
  # the grid; the second half of each row is what gets shifted in.
  turned_NS2 = np.full((count, 2 * size), OUTSIDE, np.uint8)
  for transform, inverse in enumerate(INVERSE_DIHEDRAL):
    rows = np.flatnonzero(dihedral_N == transform)
    turned = dihedral(grids_NCC[rows], inverse)
    turned_NS2[rows, :size] = turned.reshape(len(rows), size)
  shift_N = (turned_NS2 != OUTSIDE).argmax(axis=1)
  windows = np.lib.stride_tricks.sliding_window_view(turned_NS2, size, axis=1)
  grids_NCC = windows[np.arange(count), shift_N].reshape(tokens_NCC.shape)

  sizes_N2 = np.stack([height_N, width_N], axis=1)
  swapped_N = np.isin(dihedral_N, (1, 3, 6, 7))
  sizes_N2[swapped_N] = sizes_N2[swapped_N, ::-1]
  return grids_NCC, *sizes_N2.T
