"""Own puzzles on the command line: files, names of files, the terminal."""

import csv
import json
import re
import types

import numpy as np
import pytest
from PIL import Image

from data_pipelines.arc.voting import Candidate
from data_pipelines.errors import ConfigError
from data_pipelines.questions.sudoku import Sudoku
from experiments import predict
from experiments.reporting import evaluation_files, gallery
from hrm_jax.settings import Width
from hrm_jax.solver import Answer, Fitting, Solver
from tests.run_fixtures import random_task

SEGMENTS = 2
FITTING = Fitting(steps=2, num_aug=3)
SUDOKU = '1.34341221434321'


def _write(path, task):
  path.write_text(json.dumps(task))
  return str(path)


def _contents(directory):
  return {
    path: path.read_bytes() for path in directory.rglob('*') if path.is_file()
  }


@pytest.fixture(scope='module')
def predicted(random_arc_run, tmp_path_factory):
  """A directory of a task that was trained on, one that was not, and one that
  has the name of one that was; what was found and where it was written."""
  tasks = tmp_path_factory.mktemp('own')
  _write(tasks / 'a.json', random_task(1))
  _write(tasks / 'b.json', random_task(3))
  _write(tasks / 'new.json', random_task(4, known=False))
  before = _contents(random_arc_run)
  found = predict.run(
    random_arc_run, str(tasks), FITTING, out=tasks / 'out', trace=True
  )
  assert _contents(random_arc_run) == before
  return found, tasks / 'out'


def test_files_tell_what_was_predicted_and_how(predicted):
  found, out = predicted
  names = {path.name for path in out.iterdir()}
  assert names == {
    'submission.json',
    'predictions.json',
    'predictions.png',
    'scores.json',
    *(f'trace_{n}.{x}' for n in ('a', 'b', 'new') for x in ('png', 'gif')),
  }
  submission = json.loads((out / 'submission.json').read_text())
  assert list(submission) == ['a', 'b', 'new']
  scores = json.loads((out / 'scores.json').read_text())
  known, new = (query.way for query in found.asked.queries)
  assert scores['ways'] == {'a': known, 'b': new, 'new': new}
  assert scores['step'] == 7
  # Two test outputs are known.
  assert scores['eval/pass@1/outputs'] in (0, 0.5, 1)
  predictions = json.loads((out / 'predictions.json').read_text())
  votes = [candidate['votes'] for candidate in predictions['a'][0]]
  assert sum(votes) <= 4


def test_traces_are_drawn(predicted):
  _, out = predicted
  with Image.open(out / 'trace_a.gif') as animation:
    # One update each; equal pictures are one frame.
    assert 1 <= animation.n_frames <= SEGMENTS
    shown = 0
    for frame in range(animation.n_frames):
      animation.seek(frame)
      shown += animation.info['duration']
  assert shown == 900 + 2500
  with Image.open(out / 'trace_new.png') as strip:
    assert strip.width > 100


def test_the_terminal_shows_grids(predicted):
  found, _ = predicted
  plain, _, _ = predict.tell(found, colour=False)
  assert plain.startswith('a, test 1 of 1, with its own rows')
  assert re.search('attempt 1: [1-4] of 4 votes, confidence 0[.]', plain)
  first = ' '.join(map(str, random_task(1)['test'][0]['input'][0]))
  lines = plain.splitlines()
  (caption,) = (i for i, line in enumerate(lines) if line.startswith('input '))
  assert lines[caption + 1].startswith(first)
  assert '\x1b' not in plain
  coloured, _, _ = predict.tell(found, colour=True)
  assert '\x1b[48;2;' in coloured


def test_a_sudoku_is_predicted_as_text(trained_run, tmp_path, capsys):
  found = predict.run(trained_run, SUDOKU, out=tmp_path, trace=True)
  assert found.answers[0].right() == (False,)
  names = {path.name for path in tmp_path.iterdir()}
  assert names == {
    'predictions.csv',
    'predictions.png',
    'scores.json',
    'trace_Sudoku_1.png',
    'trace_Sudoku_1.gif',
  }
  shown = capsys.readouterr().out
  assert 'with the checkpoint as it is' in shown
  assert '1 . 3 4' in shown and '1 2 3 4' in shown


def test_it_is_predicted_as_often_as_asked(trained_run, tmp_path):
  width = Width(symmetries=3)
  found = predict.run(trained_run, SUDOKU, out=tmp_path, width=width)
  assert found.answers[0].cast == (3,)


def _told(domain, grids, truth, valid=None):
  attempts = [
    Candidate(grid, 4 - number, 0.75 - number / 4)
    for number, grid in enumerate(grids)
  ]
  answer = Answer(
    'a', (truth,), (truth,), (tuple(attempts),), (4,), (valid,), 'its way'
  )
  asked = types.SimpleNamespace(left_out=())
  found = types.SimpleNamespace(asked=asked, answers=[answer], domain=domain)
  (text,) = predict.tell(found, colour=False)
  return text.splitlines()


def test_what_is_right_is_told_so():
  truth = np.array([[1, 2], [3, 4]], np.uint8)
  told = _told(None, [truth.T, truth], truth)
  assert told[:3] == [
    'a, test 1 of 1, with its way',
    'attempt 1: 4 of 4 votes, confidence 0.75, wrong',
    'attempt 2: 3 of 4 votes, confidence 0.50, right',
  ]
  truth = np.array([[1, 2, 3, 4], [3, 4, 1, 2], [2, 1, 4, 3], [4, 3, 2, 1]])
  for grid, valid, mark in (
    (truth, True, 'right, 100% of the cells'),
    (truth.T, True, 'valid, another solution, 50% of the cells'),
    (truth.T, False, 'wrong, 50% of the cells'),
  ):
    told = _told(Sudoku(2, 2), [grid], truth, valid)
    assert told[:2] == ['a, with its way', f'{mark}, confidence 0.75']


def test_only_what_was_written_is_told(trained_run, tmp_path, capsys):
  (tmp_path / 'notes.txt').write_text('mine')
  predict.run(trained_run, SUDOKU, out=tmp_path)
  (told,) = re.findall(r'Written to .*: (.*)', capsys.readouterr().out)
  assert 'scores.json' in told and 'notes.txt' not in told


def test_titles_that_look_alike_have_files_of_their_own(
  random_arc_run, tmp_path
):
  for name in ('x?', 'x*', 'X_'):
    _write(tmp_path / f'{name}.json', random_task(4))
  out = tmp_path / 'out'
  fitting = Fitting('none', num_aug=1)
  predict.run(random_arc_run, str(tmp_path), fitting, out=out, trace=True)
  names = {path.name for path in out.glob('trace_*.gif')}
  assert names == {'trace_X_.gif', 'trace_x__2.gif', 'trace_x__3.gif'}


@pytest.mark.parametrize(
  'titles, names',
  [
    (['a', 'a'], ['a', 'a_2']),
    (['a/b', 'a:b', 'A_B'], ['a_b', 'a_b_2', 'A_B_3']),
    (['..', '../../etc/x', '/'], ['puzzle', '_.._etc_x', '_']),
    (['é' * 200], ['é' * 50]),
    (['x' * 101, 'x' * 102], ['x' * 100, 'x' * 100 + '_2']),
    (['a', 'a_2', 'a'], ['a', 'a_2', 'a_3']),
  ],
)
def test_names_of_files_are_distinct_and_stay_in_their_directory(titles, names):
  assert evaluation_files.distinct_names(titles) == names


def test_a_place_that_cannot_be_written_is_refused(trained_run, tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(ConfigError, match=r'file/out/.* cannot be written'):
    predict.run(trained_run, SUDOKU, out=tmp_path / 'file' / 'out')


def _kaggle(path, *widths):
  tasks = {f't{i}': random_task(i, width) for i, width in enumerate(widths)}
  path.write_text(json.dumps(tasks))
  return str(path)


def _fallback(number, width):
  """The input, and the output of the first demonstration: both differ."""
  task = random_task(number, width)
  first, second = task['test'][0]['input'], task['train'][0]['output']
  return [{'attempt_1': first, 'attempt_2': second}]


def test_a_submission_has_every_task_of_the_file(
  random_arc_run, tmp_path, capsys
):
  spec = _kaggle(tmp_path / 'x_challenges.json', 3, 5, 3, 35)
  out = tmp_path / 'out'
  predict.run(random_arc_run, spec, Fitting('none', num_aug=1), out=out)
  submission, predictions, scores = (
    json.loads((out / f'{name}.json').read_text())
    for name in ('submission', 'predictions', 'scores')
  )
  assert list(submission) == list(predictions) == ['t0', 't1', 't2', 't3']
  assert submission['t1'] == _fallback(1, 5)
  assert submission['t3'] == _fallback(3, 35)
  assert predictions['t1'] == [[]] != predictions['t0']
  assert scores['left_out'] == ['t1', 't3']
  told = capsys.readouterr().out
  assert '2 of 4 tasks, larger than the canvas of 4 × 4: t1, t3' in told
  assert 't1, test 1' not in told


def test_a_submission_is_whole_before_the_work(
  random_arc_run, tmp_path, monkeypatch
):
  def interrupt(*_):
    raise KeyboardInterrupt

  spec = _kaggle(tmp_path / 'x_challenges.json', 3, 5)
  path = tmp_path / 'out' / 'submission.json'
  fitting = Fitting('none', num_aug=1)
  with monkeypatch.context() as patch:
    patch.setattr(Solver, 'ask', interrupt)
    with pytest.raises(KeyboardInterrupt):
      predict.run(random_arc_run, spec, fitting, out=path.parent)
    assert json.loads(path.read_text()) == {
      't0': _fallback(0, 3), 't1': _fallback(1, 5),
    }  # fmt: skip
  # What an earlier one answered stays until there are other answers.
  path.write_text('{"t0": "mine", "t1": "mine"}')
  with monkeypatch.context() as patch:
    patch.setattr(Solver, 'ask', interrupt)
    with pytest.raises(KeyboardInterrupt):
      predict.run(random_arc_run, spec, fitting, out=path.parent)
  assert 'mine' in path.read_text()


def test_predictions_of_titles_that_look_alike_have_their_own_directories():
  titles = ['x?', 'x*', 'x_', '...1', '1', 'x' * 101, 'x' * 102, '..', '.']
  names = [evaluation_files.name_of(title) for title in titles]
  assert len({*names}) == len(titles)
  assert names[2] == 'x_' and names[4] == '1'


@pytest.mark.parametrize(
  'name', ['=1+1', '+1', '-1', '@A1', '\t=1', "'x", "'=1", 'plain', "a'=b", '']
)
def test_spreadsheets_run_no_cell(name, tmp_path):
  domain, cells = Sudoku(2, 2), np.ones((1, 16), np.uint8)
  numbers = np.ones(1)
  found = {'tokens': cells, 'exact': numbers, 'accuracy': numbers}
  found |= {'confidence': numbers}
  asked = {'domain': domain, 'vocab_size': 6, 'names': [name]}
  result = types.SimpleNamespace(
    **asked, questions=cells, labels=cells, found=found
  )
  evaluation_files.write_answers(tmp_path, result, {})
  with (tmp_path / 'predictions.csv').open(newline='') as file:
    (line,) = csv.DictReader(file)
  assert not line['puzzle'].startswith(('=', '+', '-', '@', '\t', '\r'))
  (read,) = gallery._read_lines(tmp_path)
  assert read['puzzle'] == name and read['question'] == '.' * 16
