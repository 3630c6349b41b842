"""Own puzzles: which rows predict them, what is written, what is refused."""

import contextlib
import json
import re

import jax
import numpy as np
import pytest
from PIL import Image

from data_pipelines import leaks as leak_check
from data_pipelines.arc import encoding
from data_pipelines.errors import ConfigError, DataError
from experiments import predict
from experiments.cli import own_puzzles
from experiments.cli.own_puzzles import Fitting
from hrm_jax import build
from hrm_jax.workdir import checkpoints

CANVAS, SEGMENTS = 4, 2
# As many rows as the checkpoint has, so that one program predicts with either.
FITTING = Fitting(steps=2, num_aug=3)
SUDOKU = '1.34341221434321'


def _task(seed, width=3, known=True):
  """Random grids, which no augmentation turns into each other."""
  rng = np.random.default_rng(seed)
  pairs = [
    {
      'input': rng.integers(0, 10, (2, width)).tolist(),
      'output': rng.integers(0, 10, (2, 3)).tolist(),
    }
    for _ in range(3)
  ]
  if not known:
    del pairs[-1]['output']
  return {'train': pairs[:-1], 'test': pairs[-1:]}


def _write(path, task):
  path.write_text(json.dumps(task))
  return str(path)


@pytest.fixture(scope='module')
def workdir(tiny_arc_config, tmp_path_factory):
  """A checkpoint of the tasks `a` and `b`, of random weights."""
  root = tmp_path_factory.mktemp('predict')
  (root / 'tasks').mkdir()
  for name, seed in (('a', 1), ('b', 2)):
    _write(root / 'tasks' / f'{name}.json', _task(seed))
  config = tiny_arc_config(root / 'tasks')
  puzzles = build.puzzle_set(config)
  rng = np.random.default_rng(0)
  weights = jax.tree.map(
    lambda leaf: 0.3 * rng.normal(size=leaf.shape).astype(np.float32),
    jax.eval_shape(build.train_setup(config, puzzles).init),
  )
  weights.puzzle_table[0] = 0
  build.claim_workdir(
    root / 'run', config, puzzles, leak_check.Verdict([], (), False)
  )
  saved = checkpoints.Checkpoints(root / 'run', checkpoints.Keep(1))
  with contextlib.closing(saved):
    saved.save_weights(
      7,
      weights.predicting,
      weights.puzzle_table,
      checkpoints.Position(0, puzzles.identifier_names(), puzzles.version),
    )
  return root / 'run'


@pytest.fixture(scope='module')
def checkpoint(workdir):
  return own_puzzles.load(workdir)


def _contents(directory):
  return {
    path: path.read_bytes() for path in directory.rglob('*') if path.is_file()
  }


@pytest.fixture(scope='module')
def predicted(workdir, tmp_path_factory):
  """A directory of a task that was trained on, one that was not, and one that
  has the name of one that was; what was found and where it was written."""
  tasks = tmp_path_factory.mktemp('own')
  _write(tasks / 'a.json', _task(1))
  _write(tasks / 'b.json', _task(3))
  _write(tasks / 'new.json', _task(4, known=False))
  before = _contents(workdir)
  parts = predict.run(
    workdir, str(tasks), FITTING, out=tasks / 'out', trace=True
  )
  assert _contents(workdir) == before
  return parts, tasks / 'out'


def test_known_tasks_have_their_rows_and_others_new_ones(predicted):
  known, new = predicted[0]
  assert [task.name for task in known.puzzles.evaluation_tasks] == ['a']
  # Their four augmentations, in the checkpoint's order, after the blank row.
  assert known.identifiers.tolist() == [0, 1, 2, 3, 4]
  assert [task.name for task in new.puzzles.evaluation_tasks] == ['b', 'new']
  assert 'fitted in 4 steps' in new.way and 'frozen' in new.way
  assert new.identifiers.tolist() == list(range(9))
  rows = np.asarray(new.puzzle_table)[:9]
  # In four steps of eight rows not each row need have been shown.
  assert not rows[0].any() and rows[1:].any(axis=1).mean() > 0.5


def test_files_tell_what_was_predicted_and_how(predicted):
  (known, new), out = predicted
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
  assert scores['ways'] == {'a': known.way, 'b': new.way, 'new': new.way}
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


def test_a_trace_ends_in_the_answers_that_were_predicted(checkpoint, predicted):
  (_, new), _ = predicted
  traced = own_puzzles.trace(checkpoint, new, SEGMENTS)
  assert traced.trace.tokens.shape == (SEGMENTS, 1, 2, CANVAS**2)
  assert traced.thought(0).levels == 'H'
  # Of the second task the answer is not known.
  assert [traced.thought(row).answer is None for row in (0, 1)] == [False, True]
  # What the identity predicts is among the candidates.
  for row, name in enumerate(('b', 'new')):
    grids, heights, widths = encoding.decode(
      traced.trace.tokens[-1, -1, row][None],
      np.zeros(1, int),
      np.arange(10, dtype=np.uint8)[None],
    )
    grid = grids[0, : heights[0], : widths[0]]
    candidates = new.judge.candidates[name, 0]
    assert not grid.size or any(
      np.array_equal(candidate.grid, grid) for candidate in candidates
    )


def test_without_fitting_the_blank_row_predicts(checkpoint, tmp_path):
  spec = _write(tmp_path / 'new.json', _task(4))
  (part,) = own_puzzles.predict(
    checkpoint,
    own_puzzles.read(checkpoint, spec),
    Fitting(adapt='none', num_aug=3),
  )
  assert not part.identifiers.any() and 'blank' in part.way
  assert part.variables is checkpoint.variables


def test_the_run_s_own_data_may_have_changed(workdir, checkpoint, caplog):
  # Then a name tells nothing.
  directory = workdir.parent / 'tasks'
  _write(directory / 'c.json', _task(5))
  try:
    known, new = own_puzzles.known_and_new(
      checkpoint, build.puzzle_set(checkpoint.config).evaluation_tasks
    )
  finally:
    (directory / 'c.json').unlink()
  assert not known and len(new) == 3
  assert 'are not what they were' in caplog.text


def test_the_terminal_shows_grids(predicted):
  (known, _), _ = predicted
  (plain,) = predict.tell([known], colour=False)
  assert plain.startswith('a, test 1 of 1, with its own rows')
  assert re.search('attempt 1: [1-4] of 4 votes, confidence 0[.]', plain)
  first = ' '.join(map(str, _task(1)['test'][0]['input'][0]))
  lines = plain.splitlines()
  (caption,) = (i for i, line in enumerate(lines) if line.startswith('input '))
  assert lines[caption + 1].startswith(first)
  assert '\x1b' not in plain
  (coloured,) = predict.tell([known], colour=True)
  assert '\x1b[48;2;' in coloured


@pytest.mark.parametrize(
  'task, message',
  [
    ({'train': [], 'test': []}, "task 'bad': train must be a list of at least"),
    (
      _task(1, width=5),
      "task 'bad' has a grid larger than the checkpoint's canvas of 4 × 4; "
      'give a smaller one, or train with a larger --config.data.canvas',
    ),
  ],
)
def test_bad_tasks_are_refused(checkpoint, tmp_path, task, message):
  spec = _write(tmp_path / 'bad.json', task)
  with pytest.raises(DataError, match=re.escape(message)) as refused:
    own_puzzles.read(checkpoint, spec)
  assert spec in str(refused.value) and '\n' not in str(refused.value)


def test_puzzles_of_another_domain_are_refused(checkpoint):
  with pytest.raises(ConfigError, match='trained on ARC tasks on a canvas of'):
    own_puzzles.read(checkpoint, SUDOKU)


@pytest.fixture(scope='module')
def sudokus(trained_run):
  return own_puzzles.load(trained_run)


def test_a_sudoku_is_predicted_as_text(sudokus, trained_run, tmp_path, capsys):
  parts = predict.run(trained_run, SUDOKU, out=tmp_path, trace=True)
  assert not parts[0].judge.found['exact'][0]
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


def test_what_a_sudoku_checkpoint_cannot_do_is_refused(sudokus, tmp_path):
  with pytest.raises(DataError, match='no solution'):
    own_puzzles.read(sudokus, '1111' + '.' * 12)
  with pytest.raises(DataError, match='has 15 characters; a Sudoku has 16'):
    own_puzzles.read(sudokus, SUDOKU[1:])
  with pytest.raises(ConfigError, match=r'Sudokus of 4 × 4.*Sudokus of 6 × 6'):
    own_puzzles.read(sudokus, '.23456456123.31564.64231312645645312')
  spec = _write(tmp_path / 'task.json', _task(1))
  with pytest.raises(ConfigError, match='has ARC tasks'):
    own_puzzles.read(sudokus, spec)


def test_a_broken_run_is_refused(tmp_path):
  with pytest.raises(ConfigError, match=r'no config[.]json'):
    predict.run(tmp_path, SUDOKU)
  (tmp_path / 'config.json').write_text('{"model": ')
  with pytest.raises(ConfigError, match=r'config[.]json: not readable as JSON'):
    predict.run(tmp_path, SUDOKU)
