"""The picture shows the right colours and leaves out what it says."""

import numpy as np
import pytest
from PIL import Image

from data_pipelines.arc.tasks import Pair, Task
from data_pipelines.arc.voting import Candidate
from data_pipelines.drawing import pictures as picture
from data_pipelines.questions.sudoku import Sudoku


def tasks_of(count, known=True):
  inputs = np.array([[1, 2, 3], [4, 5, 6]], np.uint8)
  output = np.array([[7, 8], [9, 0]], np.uint8)
  pair = Pair(inputs, output if known else None)
  return [Task(f'task{i}', (), (pair,)) for i in range(count)]


def draw(tmp_path, *args, **kwargs):
  path = tmp_path / 'picture.png'
  picture.draw_predictions(*args, path, **kwargs)
  assert [file.name for file in tmp_path.iterdir()] == ['picture.png']
  with Image.open(path) as image:
    assert image.format == 'PNG'
    return np.asarray(image.convert('RGB'))


def hexadecimal(pixel):
  return '#' + bytes(pixel).hex()


def cell_colours(pixels, panel, height, width):
  """The middle pixels of the cells of a grid of a picture's first row."""
  left = picture.MARGIN + panel * (picture.MIN_PANEL + picture.PANEL_GAP)
  # Under the heading, the line above the panels and the row's title.
  top = picture.MARGIN + 4 * picture.LINE + 5
  return [
    [
      hexadecimal(
        pixels[top + y * picture.CELL + 9, left + x * picture.CELL + 9]
      )
      for x in range(width)
    ]
    for y in range(height)
  ]


def test_cells_have_the_official_colours(tmp_path):
  candidates = {
    ('task0', 0): [
      Candidate(np.array([[7, 8], [9, 9]], np.uint8), 12, 0.5),
      Candidate(np.array([[7, 8], [9, 0]], np.uint8), 1, 0.5),
      Candidate(np.array([[0]], np.uint8), 1, 0.25),
    ]
  }
  pixels = draw(tmp_path, tasks_of(1), candidates)
  assert cell_colours(pixels, 0, 2, 3) == [
    ['#0074d9', '#ff4136', '#2ecc40'],
    ['#ffdc00', '#aaaaaa', '#f012be'],
  ]
  orange, sky, maroon, black = '#ff851b', '#7fdbff', '#870c25', '#000000'
  assert cell_colours(pixels, 1, 2, 2) == [[orange, sky], [maroon, black]]
  assert cell_colours(pixels, 2, 2, 2) == [[orange, sky], [maroon, maroon]]
  assert cell_colours(pixels, 3, 2, 2) == [[orange, sky], [maroon, black]]

  # The marks: one attempt is wrong, the other right.
  colours = {hexadecimal(pixel) for pixel in pixels.reshape(-1, 3)}
  assert {picture.WRONG, picture.SOLVED} <= colours


def test_no_mark_where_the_answer_is_unknown(tmp_path):
  candidates = {('task0', 0): [Candidate(np.ones((2, 2), np.uint8), 1, 0.5)]}
  pixels = draw(tmp_path, tasks_of(1, known=False), candidates)
  colours = {hexadecimal(pixel) for pixel in pixels.reshape(-1, 3)}
  assert not {picture.WRONG, picture.SOLVED} & colours
  assert cell_colours(pixels, 2, 2, 2) == [['#0074d9'] * 2] * 2


@pytest.mark.parametrize('count', [0, 1, 31])
def test_size_is_plausible(tmp_path, count):
  height, width, _ = draw(tmp_path, tasks_of(count), {}).shape
  assert 500 < width < 2500
  assert count * 100 / 4 < height < 200 + count * 100


def test_rows_beyond_the_limit_are_left_out(tmp_path):
  shown = draw(tmp_path, tasks_of(3), {}).shape
  assert draw(tmp_path, tasks_of(9), {}, max_rows=3).shape == shown


SUDOKU = picture.style_of(Sudoku(2, 2), 6)


def thought(known=True):
  """Two segments of three updates: an answer that gets better."""
  tokens = np.full((2, 3, 16), 2)
  tokens[1, 2] = 3
  return picture.Thought(
    levels='LLH',
    tokens=tokens,
    q={'q_halt': np.array([-1.5, 2]), 'q_continue': np.array([0.25, -0.5])},
    halts=np.array([False, True]),
    answer=np.r_[np.full(15, 3), 0] if known else None,
  )


def test_a_thought_is_told_in_words():
  assert thought().told(0) == 'q_halt -1.50  q_continue +0.25'
  assert thought().told(1) == 'q_halt +2.00  q_continue -0.50  would halt here'
  # A cell of 0 does not count.
  assert thought().right(np.full(16, 3)) == '15 of 15 right'
  assert thought().right(np.full(16, 2)) == '0 of 15 right'
  assert thought(known=False).right(np.full(16, 3)) == ''


def test_a_strip_has_a_panel_for_each_update(tmp_path):
  path = tmp_path / 'strip.png'
  picture.draw_thought(SUDOKU, 'mine', thought(), path)
  with Image.open(path) as image:
    pixels = np.asarray(image.convert('L')) < 128
  # Lines of the 2 × 3 grids: as long as a grid is wide.
  side = 4 * picture.CELL + 1
  starts = pixels[:, picture.MARGIN : picture.MARGIN + side].all(axis=1)
  tops = np.flatnonzero(starts & ~np.r_[True, starts[:-1]])
  # The box lines of each grid.
  assert len(tops) == 2 * 3
  row = pixels[tops[0]]
  pitch = picture.MIN_PANEL + picture.PANEL_GAP
  for panel in range(3):
    left = picture.MARGIN + panel * pitch
    assert row[left : left + side].all() and not row[left + side + 1]


def test_an_animation_shows_each_update_for_its_time(tmp_path):
  path = tmp_path / 'answer.gif'
  picture.animate_thought(SUDOKU, 'mine', np.ones(16, int), thought(), path)
  times = []
  with Image.open(path) as image:
    assert image.info['loop'] == 0
    for frame in range(image.n_frames):
      image.seek(frame)
      times.append(image.info['duration'])
  short, long, last = picture.SHORT, picture.LONG, picture.LAST
  assert times == [short, short, long, short, short, last]
