"""The command that finds leaks, and what a run is told of them."""

import ast
import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import time

import numpy as np
import pytest

from data_pipelines import puzzles
from data_pipelines.errors import DataError
from data_pipelines.leaks import Leak, Verdict, recorded
from data_pipelines.published import writer
from data_pipelines.questions import leaks as question_leaks
from data_pipelines.questions import maze, sudoku
from data_pipelines.questions.domain import Asked
from data_pipelines.questions.maze import Maze
from data_pipelines.questions.sudoku import Sudoku
from experiments import leaks

ROOT = pathlib.Path(__file__).parents[2]


def pair(inputs, output):
  return {'input': inputs, 'output': output}


SHOWN = pair([[0, 1], [2, 0], [0, 0]], [[1, 1, 2]])
# Turned by a quarter, 1 and 2 exchanged with 5 and 7.
TURNED = pair([[5, 0, 0], [0, 7, 0]], [[7], [5], [5]])
OTHER = pair([[3, 4, 4]], [[0, 9]])
THIRD = pair([[6, 0], [6, 6]], [[1], [2]])


def write_tasks(directory, **tasks):
  """A directory of tasks of one demonstration and one test each."""
  directory.mkdir()
  for name, (demonstration, test) in tasks.items():
    contents = {'train': [demonstration], 'test': [test]}
    (directory / f'{name}.json').write_text(json.dumps(contents))
  return directory


@pytest.fixture
def tasks(tmp_path):
  trained = write_tasks(tmp_path / 'trained', ours=(THIRD, SHOWN))
  leaking = write_tasks(tmp_path / 'leaking', theirs=(OTHER, TURNED))
  clean = write_tasks(
    tmp_path / 'clean',
    theirs=(OTHER, pair(TURNED['input'], [[0, 1, 2, 3]])),
  )
  return trained, leaking, clean


def run(*arguments):
  return subprocess.run(
    [sys.executable, '-m', 'experiments.leaks', *map(str, arguments)],
    cwd=ROOT,
    env={**os.environ, 'PYTHONPATH': os.environ.get('PYTHONPATH', str(ROOT))},
    capture_output=True,
    text=True,
    timeout=60,
  )


# The command.


def test_a_reachable_answer_ends_with_one(tasks, tmp_path):
  trained, leaking, _ = tasks
  out = tmp_path / 'leaks.json'
  done = run(f'--train={trained}', f'--evaluate={leaking}', f'--out={out}')
  assert (done.returncode, done.stderr) == (1, '')
  lines = done.stdout.splitlines()
  assert lines[0] == 'both      ours test[0] -> theirs test[0]'
  assert lines[5].split()[:5] == ['both', '1', 'held-out', 'of', '1']
  assert lines[6] == "data.known_leaks = ('ours->theirs',)"
  assert json.loads(out.read_text()) == {
    'train': str(trained),
    'evaluate': str(leaking),
    'answers_reachable': True,
    'leaks': [
      {
        'held_out': 'theirs',
        'held_out_place': 'test[0]',
        'trained': 'ours',
        'trained_place': 'test[0]',
        'kind': 'both',
      }
    ],
  }


def test_a_known_input_alone_ends_with_zero(tasks, tmp_path):
  trained, _, clean = tasks
  out = tmp_path / 'leaks.json'
  done = run(f'--train={trained}', f'--evaluate={clean}', f'--out={out}')
  assert (done.returncode, done.stderr) == (0, '')
  assert done.stdout.startswith('input     ours test[0] -> theirs test[0]\n')
  record = json.loads(out.read_text())
  assert not record['answers_reachable']
  assert [leak['kind'] for leak in record['leaks']] == ['input']


def test_mistakes_end_with_two_and_one_line(tasks, tmp_path):
  trained, _, clean = tasks
  for arguments, message in (
    (
      [f'--train={trained}'],
      '--evaluate=SPEC is missing, e.g. --evaluate=arc2',
    ),
    (
      [f'--train={trained}', f'--evaluate={clean}', '--out=/dev/null/x.json'],
      '/dev/null/x.json: cannot be written (File exists); name a place of '
      'yours',
    ),
  ):
    done = run(*arguments)
    assert (done.returncode, done.stderr) == (2, f'error: {message}\n')


def test_what_cannot_be_compared_is_refused(tasks):
  trained, *_ = tasks
  for train, evaluate, message in (
    ('', 'sudoku:box=2x2', '--train=SPEC is missing'),
    ('arc1', '', '--evaluate=SPEC is missing'),
    (str(trained), 'sudoku', 'name puzzles of one kind'),
    (str(trained), '/nowhere', "'/nowhere': no such directory or file"),
  ):
    with pytest.raises(DataError, match=message):
      leaks.find_leaks(train, evaluate)


def test_a_set_against_itself(tasks):
  # Its own tests are trained on then, though no run may be like that.
  trained, *_ = tasks
  (leak,) = leaks.find_leaks(str(trained), str(trained))
  assert leak == Leak('ours', 'test[0]', 'ours', 'test[0]', 'both')


def test_questions(tmp_path, monkeypatch):
  monkeypatch.setenv('HRM_JAX_CACHE', str(tmp_path))
  spec = 'sudoku:box=2x2:count=5:tests=3:clues=10'
  assert leaks.find_leaks(f'{spec}:train', f'{spec}:test') == []
  found = leaks.find_leaks(f'{spec}:train', f'{spec}:train')
  assert [leak.kind for leak in found] == ['both'] * 5
  assert found[4].held_out == found[4].trained
  assert found[4].held_out.endswith(':5')


def test_a_report_counts_held_out_pairs_and_puzzles_once():
  found = [
    Leak('a', 'test[0]', 'x', 'train[0]', 'input'),
    Leak('a', 'test[0]', 'y', 'train[1]', 'both'),
    Leak('a', 'test[0]', 'z', 'train[1]', 'both'),
    Leak('a', 'test[1]', 'y', 'train[1]', 'both'),
  ]
  lines = leaks.report(found).splitlines()
  assert [line.split()[0] for line in lines[:4]] == ['input', *['both'] * 3]
  counts = {words[0]: words[1:5] for words in map(str.split, lines[5:9])}
  assert counts == {
    'input': ['1', 'held-out', 'of', '1'],
    'output': ['0', 'held-out', 'of', '0'],
    'question': ['0', 'held-out', 'of', '0'],
    'both': ['2', 'held-out', 'of', '1'],
  }


# The real sets.


def test_arc2_trains_most_of_arc1():
  begin = time.monotonic()
  found = leaks.find_leaks('arc2:training', 'arc1:evaluation')
  assert time.monotonic() - begin < 20
  answers = {leak.held_out for leak in found if leak.kind == 'both'}
  assert 376 <= len(answers) <= 400


def test_what_leaks_inside_arc1():
  found = leaks.find_leaks('arc1:training', 'arc1:evaluation')
  names = {leak.entry for leak in found if leak.kind == 'both'}
  assert '40853293->070dd51e' in names
  # A task's own demonstrations are trained on too.
  assert '3979b1a8->3979b1a8' in names


# What a run is told.

LEAKS = [
  Leak('e', 'test[0]', 'a', 'train[0]', 'both'),
  Leak('e', 'test[0]', 'b', 'train[0]', 'both'),
  Leak('e', 'test[1]', 'a', 'train[0]', 'both'),
  Leak('f', 'test[0]', 'a', 'train[0]', 'output'),
  Leak('g', 'test[0]', 'a', 'train[0]', 'input'),
]


def test_answers_that_leak_are_refused():
  verdict = Verdict(LEAKS, ['a->f'], False)
  assert verdict.refused == LEAKS[:3]
  assert verdict.refusal().startswith(
    'Training would show 2 held-out answers: a->e, b->e; leave'
  )
  assert '\n' not in verdict.refusal()


def test_known_names_and_permission_let_a_run_start_but_are_recorded():
  # Each name counts for itself: b shows the answer as well.
  assert Verdict(LEAKS, ['a->e'], False).refused == [LEAKS[1]]
  for verdict, allowed in (
    (Verdict(LEAKS, ['a->e', 'b->e'], False), False),
    (Verdict(LEAKS, [], True), True),
  ):
    assert verdict.refused == []
    assert verdict.answers == [LEAKS[0], LEAKS[2]]
    assert verdict.note() == '\nTrained on 2 held-out answers: a->e'
    assert verdict.metrics() == {'eval/leaking_answers': 2.0}
    assert verdict.record() == {
      'answers': 2,
      'leaks': [dataclasses.asdict(LEAKS[i]) for i in (0, 2)],
      'allow_leaks': allowed,
    }


def test_inputs_and_outputs_alone_are_no_answers():
  verdict = Verdict(LEAKS[3:], [], False)
  assert verdict.refused == verdict.answers == []
  assert verdict.note() == ''
  assert verdict.record() == {'answers': 0, 'leaks': [], 'allow_leaks': False}


def test_many_names_are_cut_short():
  many = [Leak(str(i), 'test[0]', 'a', 'train[0]', 'both') for i in range(7)]
  assert Verdict(many, [], False).refusal().startswith(
    'Training would show 7 held-out answers: a->0, a->1, a->2, a->3, a->4 and '
    '2 more; leave'
  )  # fmt: skip
  assert Verdict(many[:1], [], False).note() == (
    '\nTrained on 1 held-out answer: a->0'
  )


ODD = ['a->b', 'a', 'b->c', 'c', 'x,y', 'p|||q', 'two\nlines', '{"a": 1}', '{']


def test_names_with_arrows_and_other_marks_break_nothing():
  found = [
    Leak(held_out, 'test[0]', trained, 'train[0]', 'both')
    for held_out in ODD
    for trained in ODD
  ]
  # What is printed to be pasted names each leak, and itself alone.
  for leak in found:
    *_, last = leaks.report([leak]).splitlines()
    name, _, value = last.partition(' = ')
    (entry,) = ast.literal_eval(value)
    assert name == 'data.known_leaks'
    assert Verdict(found, [entry], False).refused == [
      other for other in found if other != leak
    ]
    assert '\n' not in str(leak)
  verdict = Verdict(found, [], False)
  assert '\n' not in verdict.refusal() and '\n' not in verdict.note()[1:]
  # What config.json holds gives the same leaks, though the data are gone.
  record = json.loads(json.dumps(verdict.record()))
  assert set(recorded(record)) == set(verdict.answers)
  gone = Verdict([], [], True).beside(record)
  assert gone.answers == verdict.answers


def test_records_of_earlier_versions_are_read():
  record = {'answers': 2, 'names': ['a->b', 'a->b->c'], 'allow_leaks': False}
  verdict = Verdict([], ['a->b'], False).beside(record)
  assert [(leak.trained, leak.held_out) for leak in verdict.answers] == [
    ('a', 'b'),
    ('a', 'b->c'),  # Split at the first arrow.
  ]
  assert [leak.held_out for leak in verdict.refused] == ['b->c']
  # A text with several arrows names all that it can mean.
  both = [
    Leak('b->c', 'test[0]', 'a', 'train[0]', 'both'),
    Leak('c', 'test[0]', 'a->b', 'train[0]', 'both'),
  ]
  assert Verdict(both, ['a->b->c'], False).refused == []
  assert Verdict(both, [both[0].entry], False).refused == [both[1]]


# Sudokus and mazes.


def between(domain, trained, held_out):
  # Answers play no part: each question stands for its own.
  def asked(rows, name):
    size = rows.shape[1]
    return Asked(domain, 9, size, len(rows), lambda i: (rows[i], rows[i]), name)

  found = question_leaks.between(
    asked(trained, 't{}'.format), asked(held_out, 'h{}'.format)
  )
  assert {(leak.held_out_place, leak.kind) for leak in found} <= {
    ('question', 'both')
  }
  return [(leak.held_out, leak.trained) for leak in found]


def images(domain, questions, variant):
  """Question i in its variant number `variant[i]`."""
  keys = np.arange(len(questions), dtype=np.uint64) + np.uint64(99)
  shown, _ = domain.augment(questions, questions, np.array(variant), keys)
  return shown


@pytest.mark.parametrize('box', [(2, 2), (2, 3), (3, 3)])
def test_images_of_sudokus(box):
  domain = Sudoku(*box)
  made = sudoku.generate(domain, 6, 0, domain.seq_len * 2 // 3).questions
  trained = made[[0, 1, 2, 1]]
  held_out = images(domain, made[[1, 5, 0, 4]], [1, 1, 2, 0])
  assert not np.array_equal(held_out[0], made[1])
  assert between(domain, trained, held_out) == [('h0', 't1'), ('h2', 't0')]
  # A clue less is another puzzle.
  held_out[:, np.flatnonzero(held_out[0] > 1)[0]] = 1
  assert between(domain, trained, held_out[:1]) == []


@pytest.mark.parametrize('transform', range(8))
def test_images_of_mazes(transform):
  domain = Maze(6, 6)
  made = maze.generate(domain, 4, 0, 6).questions
  held_out = images(domain, made[[3, 1]], [0, transform])
  assert between(domain, made[:3], held_out) == [('h1', 't1')]


def test_unknown_puzzles_are_compared_cell_by_cell():
  trained = np.array([[1, 2, 3, 4], [5, 6, 7, 8]], np.uint8)
  held_out = np.array([[5, 6, 7, 8], [2, 1, 4, 3], [1, 2, 3, 4]], np.int64)
  assert between(None, trained, held_out) == [('h0', 't1'), ('h2', 't0')]


def test_a_published_directory_against_tasks(tasks, tmp_path):
  trained, *_ = tasks
  data = puzzles.load_puzzles('', str(trained), 30, 2, 0)
  writer.export(data, tmp_path / 'published', 'hrm', 0)
  # The published directory trains on demonstrations, and holds out `ours`.
  found = leaks.find_leaks(str(trained), str(tmp_path / 'published'))
  assert [leak.entry for leak in found if leak.reaches_answer] == ['ours->ours']
  assert leaks.find_leaks('', str(trained)) == []


def test_an_answer_not_known_here_may_be_reached(tasks, tmp_path):
  trained, leaking, _ = tasks
  unknown = tmp_path / 'unknown'
  unknown.mkdir()
  for path in leaking.glob('*.json'):
    task = json.loads(path.read_text())
    for pair in task['test']:
      del pair['output']
    (unknown / path.name).write_text(json.dumps(task))
  (leak,) = leaks.find_leaks(str(trained), str(unknown))
  assert leak.kind == 'question'
  assert Verdict([leak], (), False).refused == [leak]
