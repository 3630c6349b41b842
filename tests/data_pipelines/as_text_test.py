"""Puzzles as text: what is asked, and which replies are grids."""

import json

import numpy as np
import pytest

from data_pipelines import as_text
from data_pipelines.arc.tasks import TaskSet, parse_task
from data_pipelines.as_text import Prompt
from data_pipelines.errors import DataError
from data_pipelines.questions.loading import load_questions

_ARC = Prompt('a', 0, '', '0123456789')
_SUDOKU = Prompt('s', 0, '', '?.1234', (4, 4))


def test_a_task_shows_its_demonstrations_and_the_input_that_is_asked():
  def pairs(*numbers):
    return [{'input': [[n, n]], 'output': [[n], [0]]} for n in numbers]

  task = parse_task('x', {'train': pairs(1, 2), 'test': pairs(7, 8)}, 'x')
  first, second = as_text.prompts(TaskSet('x', (task,)))
  assert (first.puzzle, first.test, second.test) == ('x', 0, 1)
  for prompt, asked, other in ((first, '7 7', '8 8'), (second, '8 8', '7 7')):
    assert (
      'Example 2, input:\n2 2\n\nExample 2, output:\n2\n0\n\n' in prompt.text
    )
    assert f'Test input:\n{asked}\n\n' in prompt.text
    assert other not in prompt.text
    # The true answer is not there.
    assert f'\n{asked[0]}\n0\n' not in prompt.text


@pytest.mark.parametrize(
  'spec', ['sudoku:box=2x3:count=1:tests=3', 'maze:size=5x8:count=1:tests=3']
)
def test_questions_stand_in_the_text_and_true_answers_are_read(spec):
  puzzles = load_questions(spec, 'test', 0)
  prompts = list(as_text.prompts(puzzles))
  assert len({prompt.puzzle for prompt in prompts}) == 3
  for number, prompt in enumerate(prompts):
    question, answer = (
      tokens[number].reshape(prompt.shape)
      for tokens in (puzzles.questions, puzzles.answers)
    )
    asked = as_text.lines_of(question, prompt.characters)
    assert f'\n\n{asked}\n\n' in prompt.text
    assert '?' not in asked and '.' in asked
    text = as_text.lines_of(answer, prompt.characters)
    assert text not in prompt.text
    for form in (text, text.replace(' ', '')):
      found = prompt.read(f'Thus\n<answer>\n{form}\n</answer>')
      np.testing.assert_array_equal(found, answer)
      assert found.dtype == np.uint8


@pytest.mark.parametrize(
  'reply',
  [
    '<answer>\n1 0\n2 9\n</answer>',
    '<answer>10\n29</answer> That is it.',
    '<answer>\n\n1 0\n \n  2   9  \n</answer>',
    '<answer>\n```text\n1 0\n2 9\n```\n</answer>',
    '<answer>[[1, 0], [2, 9]]</answer>',
    '<answer>["10", "29"]</answer>',
    'Between <answer> and </answer>: <answer>\n1 0\n2 9</answer>',
    'First <answer>3</answer>, no, <answer>\n1 0\n2 9\n</answer>',
    'I write <answer> now. <answer>\n1 0\n2 9\n</answer>',
  ],
)
def test_a_grid_is_read_in_every_form_that_is_meant(reply):
  np.testing.assert_array_equal(_ARC.read(reply), [[1, 0], [2, 9]])


@pytest.mark.parametrize(
  'prompt, block, reason',
  [
    (_ARC, None, 'nothing between'),
    (_ARC, '', 'its rows'),
    (_ARC, '[]', 'its rows'),
    (_ARC, '[[]]', 'its rows'),
    (_ARC, '1 2\n3', r'its rows have \[2, 1\] cells'),
    (_ARC, '[[1, 2], [3]]', r'its rows have \[2, 1\] cells'),
    (_ARC, '1 a\n2 3', "no cell is 'a'"),
    (_ARC, '1, 2', "no cell is ','"),
    (_ARC, '1 -2\n1 2 3', "no cell is '-'"),
    (_ARC, '[[1, 12]]', "no cell is '12'"),
    (_ARC, '[[true, 1]]', "no cell is 'True'"),
    (_ARC, '[[1.0, 1]]', "no cell is '1.0'"),
    (_ARC, '[[1, 2]', 'no list of rows'),
    (_ARC, '[1, 2]', 'no list of rows'),
    (_ARC, '[' * 100_000, 'no list of rows'),
    (_ARC, '１ ２', 'no cell is'),
    (_ARC, '\n'.join(['1'] * 31), '31 × 1 cells are over 30'),
    (_ARC, '1' * 31, '1 × 31 cells are over 30'),
    (_SUDOKU, '12\n34', '2 × 2 cells are of another size'),
    (_SUDOKU, '1234\n3412\n2143', '3 × 4 cells are of another size'),
    (_SUDOKU, '1234\n3412\n2143\n4325', "no cell is '5'"),
    (_SUDOKU, '1234\n3412\n2143\n43?1', r"no cell is '\?'"),
  ],
)  # fmt: skip
def test_what_is_no_grid_is_refused(prompt, block, reason):
  reply = '1 2' if block is None else f'<answer>{block}</answer>'
  with pytest.raises(DataError, match=reason) as refused:
    prompt.read(reply)
  assert len(str(refused.value)) < 300


def test_any_text_is_a_grid_or_refused():
  rng = np.random.default_rng(0)
  pieces = ['<answer>', '</answer>', '[', ']', '1', ' ', '\n', ',', '"', '```']
  for _ in range(2000):
    text = ''.join(rng.choice(pieces, size=rng.integers(1, 14)))
    try:
      grid = _ARC.read(f'<answer>{text}')
    except DataError:
      continue
    assert grid.ndim == 2 and grid.size and (grid == 1).all()


def test_a_task_over_the_limit_is_refused():
  pair = {'input': [[1] * 31], 'output': [[1]]}
  task = parse_task('big', {'train': [pair], 'test': [pair]}, 'x')
  with pytest.raises(DataError, match='big: has a grid of more than 30 rows'):
    list(as_text.prompts(TaskSet('x', (task,))))


def test_json_is_read_as_the_lines_are():
  rows = np.random.default_rng(0).integers(0, 10, (30, 30)).tolist()
  found = _ARC.read(f'<answer>{json.dumps(rows)}</answer>')
  np.testing.assert_array_equal(found, rows)
