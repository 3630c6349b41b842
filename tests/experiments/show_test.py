"""The picture of examples: the puzzle itself beside what training shows."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from data_pipelines import puzzles
from data_pipelines.arc import encoding
from data_pipelines.drawing import pictures as picture
from data_pipelines.drawing import styles
from data_pipelines.errors import ConfigError
from data_pipelines.published import writer
from experiments import show

# Of the end-of-grid marks.
END = styles.ARC_CANVAS.colours[encoding.END]
ROOT = pathlib.Path(__file__).parents[2]
INPUT = np.array([[0, 1, 2], [3, 4, 0]], np.uint8)
OUTPUT = np.array([[5, 6], [7, 8], [9, 0]], np.uint8)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
  monkeypatch.setenv('HRM_JAX_CACHE', str(tmp_path / 'cache'))


@pytest.fixture
def arc_tasks(tmp_path):
  """A directory of one task."""
  directory = tmp_path / 'tasks'
  directory.mkdir()
  pair = {'input': INPUT.tolist(), 'output': OUTPUT.tolist()}
  other = {'input': [[1]], 'output': [[2]]}
  contents = {'train': [pair, other], 'test': [other]}
  (directory / 'mine.json').write_text(json.dumps(contents))
  return directory


def test_tasks_that_are_not_drawn_are_not_prepared(tmp_path):
  whole = puzzles.load_puzzles('arc1:training', '', 12, 3, 7)
  few = puzzles.load_puzzles('arc1:training', '', 12, 3, 7, at_most=5)
  assert len(few.tasks) == 5 < len(whole.tasks)
  both = [draw(x, tmp_path / f'{len(x.tasks)}.png', 5, 3) for x in (few, whole)]
  np.testing.assert_array_equal(*both)


def draw(puzzle_data, path, count=1, seed=0):
  show.show(puzzle_data, path, count, seed)
  assert not list(path.parent.glob('*.part'))
  with Image.open(path) as image:
    assert image.format == 'PNG'
    return np.asarray(image.convert('RGB'))


def cells(pixels, side):
  """The cells, without the lines between them, of the four grids of a picture
  of one example: [4, side, side, pixels, pixels, 3]."""
  cell = min(picture.CELL, picture.MAX_GRID // side)
  pitch = side * cell + 1 + picture.PANEL_GAP
  assert pitch > picture.MIN_PANEL + 30  # The grid is wider than its heading.
  top = picture.MARGIN + 4 * picture.LINE + 5
  return np.array(
    [
      [
        [
          pixels[y + 2 : y + cell - 1, x + 2 : x + cell - 1]
          for x in range(left, left + side * cell, cell)
        ]
        for y in range(top, top + side * cell, cell)
      ]
      for left in range(picture.MARGIN, picture.MARGIN + 4 * pitch, pitch)
    ]
  )


def colours(pixels, side):
  """Of each cell of the four grids: the colour in its corner."""
  corners = cells(pixels, side)[..., 0, 0, :].reshape(4, side**2, 3)
  return [['#' + bytes(cell).hex() for cell in grid] for grid in corners]


def has_ink(pixels, side):
  """Whether something is written into each cell: bool [4, side * side]."""
  inside = cells(pixels, side)
  return (inside != inside[..., :1, :1, :]).any((3, 4, 5)).reshape(4, -1)


def colour_of(tokens):
  """Of ARC's tokens."""
  return [('#ffffff', END, *styles.PALETTE)[token] for token in tokens.ravel()]


def check_arc(pixels, transform, permuted):
  """The task as it is, then augmented and shifted; returns the shift."""
  found = colours(pixels, 30)
  for i, grid in enumerate((INPUT, OUTPUT)):
    assert found[i] == colour_of(encoding.encode(grid))
  # The mark of the grid's end and the padding beside it.
  assert found[0][2 * 30] == END and found[0][2 * 30 + 3] == '#ffffff'
  turned = [encoding.augment(g, transform, permuted) for g in (INPUT, OUTPUT)]
  places = [
    (row, column)
    for row in range(28)
    for column in range(28)
    if max(row, column) + 3 <= 30
    and found[2] == colour_of(encoding.encode(turned[0], 30, row, column))
    and found[3] == colour_of(encoding.encode(turned[1], 30, row, column))
  ]
  assert len(places) == 1
  assert found[2] != found[0] and found[3] != found[1]
  return places[0]


def test_arc(arc_tasks, tmp_path):
  data = puzzles.load_puzzles(str(arc_tasks), '', 30, 5, 0)
  shifts = set()
  for seed in range(3):
    titles, originals, shown = data.samples(1, seed)
    (identifier,) = shown['puzzle_identifiers']
    assert originals['puzzle_identifiers'] == 1 and identifier > 1
    assert titles == [data.identifier_names()[identifier]]
    pixels = draw(data, tmp_path / 'out' / f'{seed}.png', 1, seed)
    name, *augmentation = encoding.parse_augmentation_name(titles[0])
    assert name == 'mine'
    shifts.add(check_arc(pixels, *augmentation))
    # A row of marks under each grid and a column beside it.
    assert [grid.count(END) for grid in colours(pixels, 30)[:2]] == [5, 5]
  assert END not in ('#ffffff', *styles.PALETTE)
  assert len(shifts) > 1


def test_a_published_directory(arc_tasks, tmp_path):
  data = puzzles.load_puzzles(str(arc_tasks), '', 30, 1, 0)
  directory = tmp_path / 'published'
  writer.export(data, directory, 'trm', 3)
  read = puzzles.load_puzzles(str(directory), '', 30, 0, 0)
  names = json.loads((directory / 'identifiers.json').read_text())
  titles, originals, shown = read.samples(1, 0)
  assert titles == [names[2].replace('|||', '_')] != names[2:]
  inputs = np.load(directory / 'train' / 'all__inputs.npy')
  labels = np.load(directory / 'train' / 'all__labels.npy')
  np.testing.assert_array_equal(originals['inputs'], inputs[:1])
  np.testing.assert_array_equal(shown['inputs'], inputs[3:4])
  found = colours(draw(read, tmp_path / 'out.png'), 30)
  # As the files have them: the first pair of each of the two puzzles.
  for i, array in enumerate((inputs[0], labels[0], inputs[3], labels[3])):
    assert found[i] == colour_of(array)


def test_a_sudoku(tmp_path):
  data = puzzles.load_puzzles('sudoku:count=2:tests=0:clues=40', '', 30, 3, 0)
  pixels = draw(data, tmp_path / 'sudoku.png')
  original = data.train.questions[0], data.train.answers[0]
  titles, originals, shown = data.samples(1, 0)
  assert titles == ['puzzle 0']
  np.testing.assert_array_equal(originals['inputs'], original[:1])
  np.testing.assert_array_equal(originals['labels'], original[1:])
  inked = has_ink(pixels, 9)
  np.testing.assert_array_equal(inked[0], original[0] > 1)
  np.testing.assert_array_equal(inked[2], shown['inputs'][0] > 1)
  assert inked[1].all() and inked[3].all()
  assert (inked[0] != inked[2]).any()  # Rows and columns were moved.
  # Equal digits look the same, and other digits do not.
  written = cells(pixels, 9).reshape(4, 81, -1)
  looks = {}
  for grid, tokens in (
    (0, original[0]),
    (1, original[1]),
    (2, shown['inputs'][0]),
    (3, shown['labels'][0]),
  ):
    for cell, token in enumerate(tokens):
      looks.setdefault(int(token), set()).add(written[grid, cell].tobytes())
  assert sorted(looks) == [*range(1, 11)]
  assert all(len(look) == 1 for look in looks.values())
  assert len(set.union(*looks.values())) == 10


def test_a_maze(tmp_path):
  spec = 'maze:size=9x9:path=12:count=1:tests=0'
  data = puzzles.load_puzzles(spec, '', 30, 7, 0)
  found = colours(draw(data, tmp_path / 'maze.png'), 9)
  table = ['', '#333333', '#ffffff', '#2ecc40', '#ff4136', '#7fdbff']
  grids = [data.train.questions[0], data.train.answers[0]]
  for i, grid in enumerate(grids):
    assert found[i] == [table[token] for token in grid]
  images = [
    [
      [table[t] for t in encoding.dihedral(g.reshape(9, 9), transform).ravel()]
      for g in grids
    ]
    for transform in range(8)
  ]
  assert found[2:] in images[1:]
  assert found[2] != found[0]
  # The path is in the answers alone.
  assert ['#7fdbff' in grid for grid in found] == [False, True, False, True]


def test_puzzles_are_spread_over_the_set():
  data = puzzles.load_puzzles('sudoku:box=2x2:count=9:tests=0', '', 30, 2, 0)
  for seed in (0, 1):
    titles, originals, shown = data.samples(3, seed)
    assert titles == ['puzzle 0', 'puzzle 3', 'puzzle 6']
    np.testing.assert_array_equal(
      originals['inputs'], data.train.questions[[0, 3, 6]]
    )
    np.testing.assert_array_equal(
      originals['labels'], data.train.answers[[0, 3, 6]]
    )
    # Each beside an image of itself, which no augmentation leaves as it is.
    same = (shown['inputs'] == originals['inputs']).all(axis=1)
    assert not same.any()
  titles, *_ = data.samples(100, 0)
  assert len(titles) == 9


def test_without_augmentations_the_puzzle_is_shown_twice(tmp_path):
  data = puzzles.load_puzzles('sudoku:count=1:tests=0', '', 30, 0, 0)
  drawn = cells(draw(data, tmp_path / 'a.png'), 9)
  np.testing.assert_array_equal(drawn[:2], drawn[2:])


def test_a_place_that_cannot_be_written_to(tmp_path):
  data = puzzles.load_puzzles('sudoku:box=2x2:count=1:tests=0', '', 30, 1, 0)
  (tmp_path / 'file').write_text('mine')
  (tmp_path / 'directory.png').mkdir()
  for path in (tmp_path / 'file' / 'a.png', tmp_path / 'directory.png'):
    with pytest.raises(ConfigError, match='cannot be written') as info:
      show.show(data, path, 1, 0)
    assert str(path) in str(info.value)
    assert '\n' not in str(info.value)
  assert (tmp_path / 'file').read_text() == 'mine'
  assert not list(tmp_path.rglob('*.part'))


def run(*arguments):
  return subprocess.run(
    [sys.executable, '-m', 'experiments.show', *map(str, arguments)],
    cwd=ROOT,
    env={**os.environ, 'PYTHONPATH': os.environ.get('PYTHONPATH', str(ROOT))},
    capture_output=True,
    text=True,
    timeout=60,
  )


def test_the_command(tmp_path):
  out = tmp_path / 'new' / 'sudoku.png'
  spec = 'sudoku:box=2x2:count=4:tests=0'
  done = run(f'--data={spec}', f'--out={out}', '--count=2')
  assert (done.returncode, done.stdout) == (0, f'Written: {out}\n')
  with Image.open(out) as image:
    assert image.format == 'PNG'
  done = run(f'--data={spec}')
  assert done.returncode == 2
  assert done.stderr.startswith('error: --out is missing')
  assert done.stderr.count('\n') == 1
