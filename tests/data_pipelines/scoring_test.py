"""Judges: from predictions, batch by batch, to scores and files."""

import csv
import json
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from data_pipelines.arc import encoding
from data_pipelines.arc.scoring import VoteJudge, VoteResult
from data_pipelines.arc.tasks import Pair, Task
from data_pipelines.arc.voting import Ballots
from data_pipelines.questions.domain import Asked
from data_pipelines.questions.maze import Maze
from data_pipelines.questions.scoring import AnswerJudge
from data_pipelines.questions.sudoku import Sudoku
from experiments.reporting import evaluation_files


class Found(NamedTuple):
  """Predictions of some rows."""

  tokens: np.ndarray
  q_halt: np.ndarray
  steps: np.ndarray
  exact: np.ndarray
  accuracy: np.ndarray


def compared(tokens, labels, counted=True, q_halt=0.0, steps=2):
  """Predictions with what inference makes of them and their labels."""
  same = (tokens == labels) & counted
  return Found(
    tokens,
    np.full(len(tokens), q_halt, np.float32),
    np.full(len(tokens), steps, np.int32),
    same.all(axis=1),
    same.mean(axis=1, dtype=np.float32),
  )


def feed(judge, found, sizes):
  """The result of predictions that come in batches of these sizes."""
  ends = np.cumsum(sizes)
  assert ends[-1] == len(found.tokens)
  for begin, end in zip([0, *ends[:-1]], ends, strict=True):
    judge.add(Found(*(array[begin:end] for array in found)))
  return judge.result()


def written(result, directory, **facts):
  """The files as they are read: scores, rows of the table, and the picture."""
  directory.mkdir()
  facts |= result.metrics
  if isinstance(result, VoteResult):
    tasks, candidates = result.tasks, result.candidates
    evaluation_files.write_votes(directory, tasks, candidates, facts, tasks)
  else:
    evaluation_files.write_answers(directory, result, facts)
  with Image.open(directory / 'predictions.png') as image:
    assert image.format == 'PNG'
    colours = {
      '#' + bytes(colour).hex()
      for _, colour in image.convert('RGB').getcolors(1 << 24)
    }
  scores = json.loads((directory / 'scores.json').read_text())
  return scores, colours


def table(directory):
  with open(directory / 'predictions.csv', newline='') as file:
    return list(csv.DictReader(file))


# One answer each.


def answer_judge(domain, vocab_size, questions, labels, names, **fields):
  """A judge of these puzzles."""
  return AnswerJudge(
    Asked(
      domain,
      vocab_size,
      questions.shape[1],
      len(names),
      lambda rows: (questions[rows], labels[rows]),
      names.__getitem__,
    ),
    **fields,
  )


def tokens_of(domain, *texts):
  return np.array(
    [[domain.characters.index(letter) for letter in text] for text in texts],
    np.uint8,
  )


# From S to G there are three shortest paths, and others.
MAZE = 'S    #  G'
MAZE_ANSWERS = (
  'S  o #ooG',  # the label
  'S  o #ooG',
  'S   o#ooG',  # broken
  'So  o# oG',  # another shortest path
  'Soo  #  G',  # leads nowhere
  'S  o oooG',  # through a wall
  'G  o #ooS',  # start and goal exchanged
)


def maze_judge():
  domain = Maze(3, 3)
  labels = tokens_of(domain, *[MAZE_ANSWERS[0]] * 6)
  judge = answer_judge(
    domain,
    domain.vocab_size,
    tokens_of(domain, *[MAZE] * 6),
    labels,
    [f'mazes.csv:{row}' for row in range(2, 8)],
  )
  predictions = tokens_of(domain, *MAZE_ANSWERS[1:])
  return judge, compared(predictions, labels, q_halt=1.5)


@pytest.mark.parametrize('sizes', [[6], [1, 1, 1, 1, 1, 1], [4, 2], [2, 0, 4]])
def test_another_shortest_path_is_valid_but_not_exact(sizes, tmp_path):
  judge, found = maze_judge()
  result = feed(judge, found, sizes)
  assert result.metrics == {
    'eval/exact': pytest.approx(1 / 6),
    'eval/accuracy': pytest.approx((9 + 7 + 5 + 4 + 8 + 7) / 54),
    'eval/valid': pytest.approx(2 / 6),
    'eval/steps': 2.0,
  }
  other = '; valid answers other than the label: 1'
  assert result.summary() == (
    f'exact 1/6, valid 2/6, 74.07 % of the cells{other}'
  )
  report = result.report().splitlines()
  assert report[0] == 'Exact accuracy   16.67 % (1/6)'
  assert report[1] == 'Cell accuracy    74.07 %'
  assert report[2] == f'Valid solutions  33.33 % (2/6){other}'
  # Of nine cells three are path cells, which the question does not have.
  assert '66.67 % of the cells; 2.0 segments' in report[3]

  scores, colours = written(result, tmp_path / 'out', step=7, data='x')
  assert scores == {'step': 7, 'data': 'x', **result.metrics}
  assert '#7fdbff' in colours and '#333333' in colours  # Path and wall.
  rows = table(tmp_path / 'out')
  assert [row['prediction'] for row in rows] == list(MAZE_ANSWERS[1:])
  assert {(row['question'], row['answer']) for row in rows} == {
    (MAZE, MAZE_ANSWERS[0])
  }
  assert [row['puzzle'] for row in rows] == [
    f'mazes.csv:{row}' for row in range(2, 8)
  ]
  assert [row['exact'] for row in rows] == ['1', *'00000']
  assert [row['valid'] for row in rows] == ['1', '0', '1', '0', '0', '0']
  assert float(rows[1]['accuracy']) == pytest.approx(7 / 9, abs=1e-5)
  assert float(rows[0]['confidence']) == pytest.approx(0.817574)
  assert {row['steps'] for row in rows} == {'2'}


def test_sudoku(tmp_path):
  domain = Sudoku(2, 2)
  label = '1234341221434321'
  others = (
    '1234341241232341',  # solves another question
    '123434122143432.',  # is not filled in
    '1234341221434322',  # has a digit twice
  )
  questions = tokens_of(domain, *['123434122.4.4.2.'] * 4)
  labels = tokens_of(domain, *[label] * 4)
  judge = answer_judge(
    domain, domain.vocab_size, questions, labels, ['a', 'b', 'c', 'd']
  )
  result = feed(
    judge, compared(tokens_of(domain, label, *others), labels), [2, 2]
  )
  assert result.metrics['eval/exact'] == pytest.approx(1 / 4)
  assert result.summary().startswith('exact 1/4, valid 1/4')
  assert 'other than the label' not in result.summary() + result.report()
  written(result, tmp_path / 'out')
  rows = table(tmp_path / 'out')
  assert [row['valid'] for row in rows] == ['1', '0', '0', '0']
  assert [row['prediction'] for row in rows] == [label, *others]


def test_a_second_solution_of_a_sudoku_is_valid():
  domain = Sudoku(2, 2)
  question, label, other = (
    '..34341221434321'.replace('1', '.').replace('2', '.'),
    '1234341221434321',
    '2134342112434312',
  )
  questions = tokens_of(domain, question, question)
  labels = tokens_of(domain, label, label)
  judge = answer_judge(domain, 6, questions, labels, ['a', 'b'])
  result = feed(
    judge, compared(tokens_of(domain, label, other), labels), [1, 1]
  )
  assert result.metrics['eval/exact'] == 0.5
  assert result.metrics['eval/valid'] == 1


@pytest.mark.parametrize(
  'rule, taken, votes, exact',
  [
    ('frequent', ['b', 'b'], [2, 2], [0.5, 0.5, 0.5]),
    ('valid', ['a', 'b'], [1, 2], [0.5, 1, 1]),
  ],
)
def test_one_of_several_predictions_is_taken(rule, taken, votes, exact):
  domain = Sudoku(2, 2)
  # Each solves its own question alone.
  answers = {'a': '1234341221434321', 'b': '4321214334121234'}
  questions = tokens_of(domain, '123434122.4.4.2.', '4321214334121...')
  labels = tokens_of(domain, *answers.values())
  judge = answer_judge(
    domain, 6, questions, labels, ['a', 'b'], votes=3, choose=rule
  )
  predicted = tokens_of(domain, *map(answers.get, 'babbab'))
  found = compared(predicted, np.repeat(labels, 3, axis=0))
  result = feed(judge, found, [2, 4])
  expected = tokens_of(domain, *map(answers.get, taken))
  np.testing.assert_array_equal(result.found['tokens'], expected)
  np.testing.assert_array_equal(result.found['votes'], votes)
  curve = [result.metrics[f'eval/exact/{rule}@{n}'] for n in (1, 2, 3)]
  assert curve == exact and result.metrics['eval/exact'] == exact[-1]
  assert result.metrics['eval/valid'] == exact[-1]
  assert result.metrics['eval/exact/possible@1'] == 0.5
  assert result.metrics['eval/exact/possible@2'] == 1


def test_puzzles_that_are_not_known_have_no_validity(tmp_path):
  questions = np.array([[1, 2, 3], [4, 5, 6]], np.uint8)
  labels = np.array([[1, 2, 7], [4, 5, 8]], np.uint8)
  judge = answer_judge(None, 9, questions, labels, ['a', 'b'])
  predictions = np.array([[1, 2, 7], [4, 0, 8]], np.uint8)
  result = feed(judge, compared(predictions, labels, steps=3), [1, 1])
  assert result.metrics == {
    'eval/exact': 0.5,
    'eval/accuracy': pytest.approx(5 / 6),
    'eval/steps': 3.0,
  }
  assert result.summary() == 'exact 1/2, 83.33 % of the cells'
  assert 'Valid' not in result.report()
  written(result, tmp_path / 'out')
  rows = table(tmp_path / 'out')
  assert 'valid' not in rows[0]
  assert rows[1]['prediction'] == '4 0 8' and rows[1]['answer'] == '4 5 8'


# Votes.

CANVAS = 6
COLOURS = np.array([0, 3, 1, 2, *range(4, 10)], np.uint8)
AUGMENTATIONS = [(0, np.arange(10, dtype=np.uint8)), (3, COLOURS), (6, COLOURS)]
RIGHT = np.array([[1, 2, 3], [4, 0, 9]], np.uint8)
LESS = np.array([[5, 5]], np.uint8)
INPUT = np.array([[1, 0]], np.uint8)


def vote_tasks():
  demonstrations = (Pair(INPUT, LESS),)
  return [
    Task('first', demonstrations, (Pair(INPUT, RIGHT),)),
    Task('left out', demonstrations, (Pair(INPUT, LESS),)),
    Task('two', demonstrations, (Pair(INPUT, None), Pair(RIGHT, LESS))),
    Task('unknown', demonstrations, (Pair(INPUT, None),)),
  ]


def votes(tasks, answers):
  """A judge of test inputs, and predictions: `answers` has the grid that each
  augmentation of each (task, test) votes for."""
  group, test, dihedral, colours, tokens, labels = [], [], [], [], [], []
  for (task, index), grids in answers.items():
    for (transform, permuted), grid in zip(AUGMENTATIONS, grids, strict=True):
      group.append(task)
      test.append(index)
      dihedral.append(transform)
      colours.append(permuted)
      output = tasks[task].tests[index].output
      for kept, shown in ((tokens, grid), (labels, output)):
        if shown is None:
          kept.append(np.zeros(CANVAS**2, np.uint8))
        else:
          shown = encoding.augment(shown, transform, permuted)
          kept.append(encoding.encode(shown, CANVAS))
  judge = VoteJudge(Ballots(
    tasks, np.array(group), np.array(test), np.array(dihedral),
    np.array(colours),
  ))  # fmt: skip
  tokens, labels = np.stack(tokens), np.stack(labels)
  # As inference: no exact row and no right cell where no label is known.
  return judge, compared(tokens, labels, labels.any(axis=1, keepdims=True))


@pytest.mark.parametrize(
  'sizes', [[12], [1] * 12, [5, 5, 2], [2, 1, 0, 4, 5], [3, 3, 3, 3]]
)
def test_votes_of_a_subset_of_the_tasks(sizes, tmp_path):
  tasks = vote_tasks()
  judge, found = votes(
    tasks,
    {
      (0, 0): [RIGHT, LESS, RIGHT],
      (2, 0): [LESS, LESS, LESS],
      (2, 1): [RIGHT, RIGHT, LESS],
      (3, 0): [None, RIGHT, RIGHT],
    },
  )
  result = feed(judge, found, sizes)
  assert [
    [(c.grid.tolist(), c.votes) for c in candidates]
    for candidates in result.candidates.values()
  ] == [
    [(RIGHT.tolist(), 2), (LESS.tolist(), 1)],
    [(LESS.tolist(), 3)],
    [(RIGHT.tolist(), 2), (LESS.tolist(), 1)],
    [(RIGHT.tolist(), 2)],
  ]
  # Only two of the four test outputs are known, and six of the twelve rows.
  assert result.metrics['eval/exact'] == pytest.approx(3 / 6)
  assert result.metrics['eval/steps'] == 2
  assert result.metrics['eval/pass@1/outputs'] == 0.5
  assert result.metrics['eval/pass@2/outputs'] == 1
  assert result.metrics['eval/pass@2/whole_tasks'] == 1
  assert result.summary() == 'pass@1 1/2, pass@2 2/2'
  assert '50.00 % exact' in result.report()

  scores, colours = written(result, tmp_path / 'out', split='x')
  assert scores == {'split': 'x', **result.metrics}
  assert '#ffdc00' in colours
  submission = json.loads((tmp_path / 'out' / 'submission.json').read_text())
  assert list(submission) == ['first', 'two', 'unknown']
  assert submission['first'] == [
    {'attempt_1': RIGHT.tolist(), 'attempt_2': LESS.tolist()}
  ]
  assert submission['two'][0]['attempt_2'] == LESS.tolist()
  predictions = json.loads((tmp_path / 'out' / 'predictions.json').read_text())
  assert [len(tests) for tests in predictions.values()] == [1, 2, 1]
  assert predictions['unknown'][0][0]['votes'] == 2


def test_nothing_is_scored_where_nothing_is_known(tmp_path):
  judge, found = votes(vote_tasks(), {(3, 0): [RIGHT, None, RIGHT]})
  result = feed(judge, found, [2, 1])
  assert result.metrics == {'eval/steps': 2.0}
  assert 'nothing to score' in result.report()
  assert result.summary() == 'pass@1 0/0, pass@2 0/0'
  scores, _ = written(result, tmp_path / 'out')
  assert scores == {'eval/steps': 2.0}
  submission = json.loads((tmp_path / 'out' / 'submission.json').read_text())
  assert submission['unknown'][0]['attempt_1'] == RIGHT.tolist()


def test_a_test_input_that_no_row_answers():
  # No candidate where all predictions are empty: unsolved, not left out.
  judge, found = votes(vote_tasks(), {(0, 0): [None, None, None]})
  result = feed(judge, found, [3])
  assert result.candidates == {('first', 0): []}
  assert result.metrics['eval/pass@1/outputs'] == 0
