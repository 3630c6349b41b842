"""The Solver: what it answers, which rows it uses, what it refuses."""

import json
import os
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

import hrm_jax
from data_pipelines.arc import encoding
from data_pipelines.arc.scoring import VoteJudge
from data_pipelines.errors import ConfigError, DataError
from data_pipelines.leaks import Leak, Verdict
from data_pipelines.questions.maze import Maze
from data_pipelines.scoring import Predictions
from experiments import evaluate
from experiments.configs import sudoku
from hrm_jax import build
from hrm_jax import solver as solvers
from hrm_jax.inference import evaluation
from hrm_jax.published import convert
from hrm_jax.settings import Width
from hrm_jax.solver import Fitting
from hrm_jax.workdir import checkpoints
from tests import builders
from tests.run_fixtures import random_task

CANVAS, SEGMENTS = 4, 2
# As many rows as the checkpoint has, so that one program predicts with either.
FITTING = Fitting('rows', steps=2, num_aug=3)
SUDOKU, OTHER = '1.34341221434321', '12.4341221434321'


def _write(path, task):
  path.write_text(json.dumps(task))
  return str(path)


def _contents(directory):
  return {
    path: path.read_bytes() for path in directory.rglob('*') if path.is_file()
  }


def _same(ours, theirs):
  """Whether two answers are the same, bit for bit."""
  assert (ours.name, ours.votes, ours.confidence, ours.cast) == (
    theirs.name, theirs.votes, theirs.confidence, theirs.cast
  )  # fmt: skip
  for a, b in zip(ours.grids, theirs.grids, strict=True):
    np.testing.assert_array_equal(a, b)
  return True


@pytest.fixture(scope='module')
def solver(random_arc_run):
  return solvers.load(random_arc_run)


@pytest.fixture(scope='module')
def sudokus(trained_run):
  return solvers.load(trained_run)


@pytest.fixture(scope='module')
def trained_hrm(trained_run, tmp_path_factory):
  """A run of HRM on the Sudokus of `trained_run`, of one step."""
  config = json.loads((trained_run / 'config.json').read_text())
  hrm = sudoku.get_config('demo')
  for key in ('data', 'batch_size', 'evaluation'):
    hrm[key] = config[key]
  hrm.total_steps = hrm.checkpoint_every = 1
  hrm.model.hidden_size = 16
  hrm.model.num_heads = 2
  hrm.model.H_layers = hrm.model.L_layers = 1
  hrm.model.expansion = 1.0
  workdir = tmp_path_factory.mktemp('hrm') / 'run'
  builders.train(hrm, workdir)
  return workdir


@pytest.fixture(scope='module')
def tasks(tmp_path_factory):
  """A task that was trained on, one that was not, and one that has the name of
  one that was."""
  directory = tmp_path_factory.mktemp('own')
  _write(directory / 'a.json', random_task(1))
  _write(directory / 'b.json', random_task(3))
  _write(directory / 'new.json', random_task(4, known=False))
  return directory


@pytest.fixture(scope='module')
def asked(solver, tasks):
  return solver.ask(str(tasks), FITTING)


def test_known_tasks_have_their_rows_and_others_new_ones(solver, asked):
  known, new = asked.queries
  assert [task.name for task in known.puzzles.evaluation_tasks] == ['a']
  # The blank row and four augmentations; `b` has no rows in memory.
  assert known.identifiers.tolist() == [0, 1, 2, 3, 4]
  assert len(known.puzzle_table) == 8
  names = ['a_t', 'a_t', 'a_t']
  assert [name[:3] for name in solver.names[2:5]] == names
  assert [task.name for task in new.puzzles.evaluation_tasks] == ['b', 'new']
  assert 'fitted in 2 steps' in new.way and 'frozen' in new.way
  assert new.identifiers.tolist() == list(range(9))
  rows = np.asarray(new.puzzle_table)[:9]
  # In four steps of eight rows not each row need have been shown.
  assert not rows[0].any() and rows[1:].any(axis=1).mean() > 0.5


def test_answers_come_in_the_order_of_the_question(solver, asked, tasks):
  answers = solver.solve(asked)
  assert [answer.name for answer in answers] == ['a', 'b', 'new']
  for answer in answers:
    (grid,), (votes,), (cast,) = answer.grids, answer.votes, answer.cast
    (ranked,) = answer.attempts
    assert cast == 4 and 1 <= votes <= sum(c.votes for c in ranked) <= 4
    assert grid is ranked[0].grid and grid.dtype == np.uint8
    assert 0 < answer.confidence[0] < 1
    lines = [''.join(map(str, row)) for row in grid]
    assert str(answer).splitlines() == lines
  assert [answer.right() for answer in answers[:2]] == [(False,), (False,)]
  assert answers[2].right() == (None,)
  reordered = solver.solve(
    [tasks / 'new.json', tasks / 'a.json', tasks / 'b.json'], FITTING
  )
  assert [answer.name for answer in reordered] == ['new', 'a', 'b']
  assert _same(reordered[1], answers[0])


def test_a_task_may_be_a_dict(solver, asked, tasks):
  known = solver.solve(asked)[0]
  named = {'name': 'a', **random_task(1)}
  # By name and content it is known; without its name it is a new one.
  assert _same(solver.solve(named), known)
  (alone,) = solver.solve([named])
  assert _same(alone, known)
  assert solver.solve(random_task(1), FITTING).name == 'task'
  with pytest.raises(DataError, match="task 'a' is given 2 times"):
    solver.solve([named, tasks / 'a.json'])


def test_an_adapted_solver_knows_its_tasks(solver, asked):
  _, fitted = solver.solve(asked)[1:]
  before = solver.solve(asked)[0]
  new = {'name': 'new', **random_task(4)}
  adapted = solver.adapt([new], FITTING)
  query, other = (
    adapted.ask(puzzle).queries[0]
    for puzzle in (new, {'name': 'a', **random_task(1)})
  )
  assert query.way == other.way == 'its own rows, which the checkpoint has'
  # All rows of the new task come from the fitting, in the order of its votes.
  assert [name[:3] for name in adapted.names[9:]] == ['new'] * 4
  rows = np.asarray(query.puzzle_table)[query.identifiers[1:]]
  assert rows.any(axis=1).sum() >= 2
  answer = adapted.solve(new)
  assert answer.name == fitted.name and answer.cast == (4,)
  # With the trunk frozen, old tasks are answered as before.
  assert _same(adapted.solve({'name': 'a', **random_task(1)}), before)
  assert len(solver.names) == 9 and 'new' not in solver.adapted
  again = adapted.adapt([new], FITTING)
  assert len(again.names) == 17 and _same(again.solve(new), answer)


def test_rounds_end_with_the_votes_of_all(solver, asked):
  """Of weights like these no two votes for a test agree."""
  adapted = solver.adapt([{'name': 'new', **random_task(4)}], FITTING)
  tasks = [{'name': 'new', **random_task(4)}, {'name': 'a', **random_task(1)}]
  rounds = list(adapted.evaluate_in_rounds(adapted.ask(tasks), lambda: False))
  assert [one.facts['rows'] for one in rounds] == [2, 8]
  first, last = (one.answers for one in rounds)
  assert [answer.cast for answer in first] == [(1,), (1,)]
  whole = adapted.evaluate(tasks)
  for found, expected in zip(last, whole.answers, strict=True):
    assert found.cast == expected.cast == (4,) and _same(found, expected)
  for name, value in whole.metrics.items():
    assert rounds[-1].metrics[name] == pytest.approx(value)
  assert rounds[-1].facts['segments_run'] == whole.facts['segments_run']
  # Stopped after the first batch, there is what was in it.
  rounds = list(adapted.evaluate_in_rounds(adapted.ask(tasks), lambda: True))
  assert [one.facts['rows'] for one in rounds] == [2]


def test_a_test_whose_votes_agree_is_asked_no_more(solver, asked, monkeypatch):
  monkeypatch.setattr(evaluation, 'ROUNDS', (2, 3))
  known = solver.ask({'name': 'a', **random_task(1)})
  undecided = VoteJudge.undecided
  for told, rounds in ((set(), [2, 3]), ({('a', 0)}, [2, 3, 4])):
    monkeypatch.setattr(VoteJudge, 'undecided', lambda _, told=told: told)
    found = solver.evaluate_in_rounds(known, lambda: False)
    assert [sum(one.answers[0].cast) for one in found] == rounds
  monkeypatch.setattr(VoteJudge, 'undecided', undecided)
  (query,) = known.queries
  tokens = encoding.encode(np.array([[1]], np.uint8), 4)
  other = encoding.encode(np.array([[0]], np.uint8), 4)
  for second, expected in ((tokens, set()), (other, {('a', 0)})):
    judge = VoteJudge(query.puzzles.held_out(query.rows.take(np.int64([0, 0]))))
    one = np.zeros(2, np.float32)
    judge.add(Predictions(np.stack([tokens, second]), one, one, one, one))
    assert judge.undecided() == expected


def test_demonstrations_are_asked_by_the_task_itself(solver, monkeypatch):
  task = {'name': 'a', **random_task(1)}
  asked = solver.ask(task)
  (query,) = asked.queries
  rows = query.puzzles.demonstration_rows()
  (batch,) = query.puzzles.evaluation_batches(rows, 2)
  for pair, question, answer in zip(
    task['train'], batch['inputs'], batch['labels'], strict=True
  ):
    expected = [
      encoding.encode(np.array(pair[role], np.uint8), 4)
      for role in ('input', 'output')
    ]
    np.testing.assert_array_equal(question, expected[0])
    np.testing.assert_array_equal(np.maximum(answer, 0), expected[1])
  own = np.asarray(solver._weights(np.array([solver.names.index('a')]))[1])[0]
  table = np.asarray(query.puzzle_table)
  for identifier in rows.identifier:
    np.testing.assert_array_equal(table[query.identifiers[identifier]], own)
  assert solver.reproduced(asked, lambda: False) == {'a': (0, 2)}
  monkeypatch.setattr(evaluation, 'exact', lambda *_: np.array([True, False]))
  assert solver.reproduced(asked, lambda: False) == {'a': (1, 2)}


def test_adapting_all_moves_the_trunk_of_a_copy(solver):
  new = {'name': 'new', **random_task(4)}
  adapted = solver.adapt(new, Fitting('all', steps=2, num_aug=1))
  (query,) = adapted.held_out().queries
  (kept,) = solver.held_out().queries
  changed = jax.tree.map(
    lambda a, b: bool((np.asarray(a) != np.asarray(b)).any()),
    query.variables['params'],
    kept.variables['params'],
  )
  assert all(jax.tree.leaves(changed))
  with pytest.raises(ConfigError, match="adapt='none' adapts nothing"):
    solver.adapt(new, Fitting('none'))


def test_without_fitting_the_blank_row_predicts(solver):
  (query,) = solver.ask(random_task(4), Fitting('none', num_aug=3)).queries
  assert not query.identifiers.any() and 'blank' in query.way
  assert not np.asarray(query.puzzle_table)[0].any()
  with pytest.raises(ConfigError, match="adapt='some' is unknown"):
    Fitting('some')


def test_a_trace_ends_in_the_answers_that_were_predicted(solver, asked):
  _, new = asked.queries
  traces = solver.trace(asked)
  assert [trace.name for trace in traces] == ['a', 'b', 'new']
  # Of the last task the answer is not known.
  assert [trace.thoughts[0].answer is None for trace in traces] == [
    False, False, True
  ]  # fmt: skip
  found = solver.evaluate(asked).candidates
  for trace in traces:
    (thought,) = trace.thoughts
    assert thought.tokens.shape == (SEGMENTS, 1, CANVAS**2)
    assert thought.levels == 'H'
    # What the identity predicts is among the candidates.
    grids, heights, widths = encoding.decode(
      thought.tokens[-1, -1][None],
      np.zeros(1, int),
      np.arange(10, dtype=np.uint8)[None],
    )
    grid = grids[0, : heights[0], : widths[0]]
    assert not grid.size or any(
      np.array_equal(candidate.grid, grid) for candidate in found[trace.name, 0]
    )
  assert len(solver.trace(new, max_puzzles=1)) == 1


def test_a_trace_is_saved_as_it_is_named(solver, tmp_path):
  trace = solver.trace({'name': 'a', **random_task(1)}, segments=3)
  trace.save(tmp_path / 'thought.gif')
  with Image.open(tmp_path / 'thought.gif') as animation:
    assert 1 <= animation.n_frames <= 3
  trace.save(tmp_path / 'thought.png')
  # What a notebook shows.
  assert trace._repr_png_() == (tmp_path / 'thought.png').read_bytes()
  with Image.open(tmp_path / 'thought.png') as strip:
    assert strip.width > 100
  with pytest.raises(ConfigError, match=r'thought[.]mp4: .* as [.]gif'):
    trace.save(tmp_path / 'thought.mp4')
  with pytest.raises(ConfigError, match='cannot be written'):
    trace.save(tmp_path / 'nowhere' / 'thought.gif')


def test_evaluate_gives_the_numbers_of_the_command(trained_run, sudokus):
  found = sudokus.evaluate()
  (directory,) = (trained_run / 'evaluation').iterdir()
  scores = json.loads((directory / 'scores.json').read_text())
  # One took longer than the other.
  facts = {**found.facts, 'seconds': scores['seconds']}
  assert scores == {**facts, **found.metrics}
  exact = [answer.right() == (True,) for answer in found.answers]
  assert np.mean(exact) == found.metrics['eval/exact'] and len(exact) == 10
  few = sudokus.evaluate(sudokus.held_out(max_puzzles=4))
  assert few.facts['rows'] == 4 and len(few.answers) == 4


def test_rollouts_and_images_of_a_sudoku_are_chosen_from(sudokus):
  plain = sudokus.evaluate()
  count = len(plain.answers)
  wide = sudokus.evaluate(
    width=Width(rollouts=2, noise=0.1, symmetries=3, choose='frequent')
  )
  (result,) = wide.results
  assert len(wide.answers) == count and result.cast == 6
  assert wide.facts['rows'] == 6 * count
  assert wide.facts['segments_run'] == 6 * plain.facts['segments_run']
  assert wide.facts['width']['choose'] == 'frequent'
  assert all(answer.cast == (6,) for answer in wide.answers)
  assert all(1 <= answer.votes[0] <= 6 for answer in wide.answers)
  metrics = wide.metrics
  for number in (1, 2, 4, 6):
    best = metrics[f'eval/exact/possible@{number}']
    for rule in ('q', 'vote', 'frequent', 'valid'):
      assert metrics[f'eval/exact/{rule}@{number}'] <= best
  assert metrics['eval/exact'] == metrics['eval/exact/frequent@6']
  assert 'chosen by frequent from 6 predictions' in wide.report()
  assert f'Cost: {wide.facts["segments_run"]:,} segments' in wide.report()


def test_images_without_noise_are_turned_back(sudokus):
  """The first of the images is the Sudoku itself, to the bit."""
  plain = sudokus.evaluate()
  images = sudokus.evaluate(width=Width(symmetries=2, choose='q'))
  found = plain.results[0].found
  assert images.metrics['eval/exact/q@1'] == plain.metrics['eval/exact']
  # An answer that is right for the image is right once it is turned back.
  result = images.results[0]
  right = (result.found['tokens'] == result.labels).all(axis=1)
  np.testing.assert_array_equal(right, result.found['exact'])
  assert found['tokens'].shape == result.found['tokens'].shape


def test_an_ensemble_is_asked_for_and_labelled(trained_run, sudokus):
  plain = sudokus.evaluate()
  # A checkpoint beside itself: each answer twice.
  twice = sudokus.evaluate(width=Width(ensemble=(str(sudokus.step),)))
  for ours, theirs in zip(twice.answers, plain.answers, strict=True):
    np.testing.assert_array_equal(ours.grids[0], theirs.grids[0])
    assert (ours.votes, ours.cast) == ((2,), (2,))
  both = f'An ensemble of the checkpoints {sudokus.step}, {sudokus.step}'
  assert both in twice.report() and 'ensemble' not in plain.report()
  # By the path of a run, and with rollouts.
  width = Width(rollouts=2, noise=0.1, ensemble=(str(trained_run),))
  assert sudokus.evaluate(width=width).results[0].cast == 4


def test_an_ensemble_of_arc_votes(solver):
  known = solver.held_out()
  plain = solver.evaluate(known)
  twice = solver.evaluate(known, width=Width(ensemble=(str(solver.step),)))
  for ours, theirs in zip(twice.answers, plain.answers, strict=True):
    for many, few in zip(ours.attempts, theirs.attempts, strict=True):
      assert [x.votes for x in many] == [2 * x.votes for x in few]


def test_votes_of_an_arc_task_are_of_all_rollouts(solver, asked):
  plain = solver.evaluate(asked)
  wide = solver.evaluate(asked, width=Width(rollouts=3, noise=0.1))
  for ours, theirs in zip(wide.answers, plain.answers, strict=True):
    assert ours.cast == tuple(3 * cast for cast in theirs.cast)


@pytest.mark.parametrize(
  'kind, fields, message',
  [
    ('solver', {'choose': 'valid'}, 'choose=valid is for Sudokus and mazes'),
    ('solver', {'symmetries': 2}, 'symmetries=2 are for Sudokus and mazes'),
    ('sudokus', {'rollouts': 2}, 'rollouts=2 without noise'),
    ('sudokus', {'noise': -1.0}, 'noise=-1.0 must be at least 0'),
    ('sudokus', {'ensemble': ('123456',)}, 'no checkpoint of step 123456'),
    ('sudokus', {'choose': 'best'}, "choose='best' is unknown"),
  ],
)
def test_widths_that_cannot_be_are_refused(kind, fields, message, request):
  with pytest.raises((ConfigError, DataError), match=message):
    request.getfixturevalue(kind).evaluate(width=Width(**fields))


def test_any_batch_size_is_rounded_up_to_the_devices(
  random_arc_run, solver, tmp_path
):
  whole = solver.evaluate()
  found = evaluate.run(random_arc_run, batch_size=3)
  assert found.metrics == whole.metrics and solver.batch_size(3) == 8


def test_a_sudoku_is_its_characters(sudokus):
  answer = sudokus.solve(SUDOKU)
  (grid,) = answer.grids
  assert grid.shape == (4, 4) and grid.min() >= 0 and grid.max() <= 4
  assert answer.inputs[0].tolist()[0] == [1, 0, 3, 4]
  assert answer.truths[0].tolist()[0] == [1, 2, 3, 4]
  assert answer.votes == answer.cast == (1,)
  assert len(str(answer).split()) == 4
  lines = '\n'.join(SUDOKU[i : i + 4] for i in range(0, 16, 4))
  assert _same(sudokus.solve(lines), answer)
  one, other = sudokus.solve([SUDOKU, OTHER])
  np.testing.assert_array_equal(one.grids[0], grid)
  assert other.inputs[0].tolist()[0] == [1, 2, 0, 4]
  assert {one.name, other.name} == {'Sudoku:1', 'Sudoku:2'}
  assert sudokus.trace(SUDOKU).inputs[0].shape == (16,)


def test_a_maze_is_its_lines(tmp_path):
  domain = Maze(2, 3)
  grid = np.array([['S', ' ', '#'], ['#', 'o', 'G']])
  tokens = solvers.tokens_of(domain, grid)
  np.testing.assert_array_equal(domain.values[tokens], grid)
  found = solvers._load('S #\n#.G\n', 'maze')
  assert found.domain == domain and found.questions.shape == (1, 6)


def test_asking_writes_nothing_and_defines_no_flag(
  random_arc_run, tmp_path, monkeypatch
):
  before = _contents(random_arc_run)
  monkeypatch.chdir(tmp_path)
  solver = solvers.load(str(random_arc_run))
  solver.solve(random_task(4), FITTING)
  solver.trace({'name': 'a', **random_task(1)})
  solver.evaluate()
  assert _contents(random_arc_run) == before and not os.listdir(tmp_path)
  # Libraries that it is built on define flags; ours must not.
  code = (
    'import hrm_jax.solver; from absl import flags\n'
    'ours = [m for m in flags.FLAGS.flags_by_module_dict() if m.startswith(\n'
    '  ("hrm_jax", "data_pipelines", "experiments"))]\n'
    'assert not ours, ours'
  )
  environment = {**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)}
  subprocess.run([sys.executable, '-c', code], check=True, env=environment)


def test_weights_are_read_once_and_when_they_are_needed(
  random_arc_run, monkeypatch
):
  restore = checkpoints.Checkpoints.restore_weights
  rows = []

  def spy(self, step, like, wanted=None):
    rows.append(wanted.tolist())
    return restore(self, step, like, wanted)

  monkeypatch.setattr(checkpoints.Checkpoints, 'restore_weights', spy)
  solver = solvers.load(random_arc_run)
  assert not rows
  first = solver.evaluate(solver.held_out(2, max_puzzles=1))
  second = solver.evaluate(solver.held_out(2, max_puzzles=1))
  assert rows == [[0, 1, 2]] and first.metrics == second.metrics
  np.testing.assert_array_equal(
    *(found.asked.queries[0].puzzle_table for found in (first, second))
  )


def test_the_run_s_own_data_may_have_changed(random_arc_run, caplog):
  # Then a name tells nothing.
  solver = solvers.load(random_arc_run)
  path = random_arc_run.parent / 'tasks' / 'c.json'
  _write(path, random_task(5))
  try:
    tasks = build.puzzle_set(solver.settings).evaluation_tasks
    (query,) = solver.ask(list(tasks), Fitting('none', num_aug=1)).queries
  finally:
    path.unlink()
  assert len(query.puzzles.evaluation_tasks) == 3 and 'blank' in query.way
  assert 'are not what they were' in caplog.text


def test_tasks_too_large_are_answered_by_nothing_beside_others(solver, caplog):
  small, large = {'name': 'a', **random_task(1)}, random_task(1, width=5)
  first, second = solver.solve([large, small])
  assert first.grids == (None,) and 'left out' in first.way
  assert str(first) == 'no answer' and second.name == 'a'
  assert '1 of 2 tasks, which are left out' in caplog.text


@pytest.mark.parametrize(
  'task, message',
  [
    ({'train': [], 'test': []}, "task 'bad': train must be a list of at least"),
    (
      random_task(1, width=5),
      "task 'bad' has a grid larger than the checkpoint's canvas of 4 × 4; "
      'give a smaller one, or train with a larger --config.data.canvas',
    ),
  ],
)
def test_bad_tasks_are_refused(solver, tmp_path, task, message):
  spec = _write(tmp_path / 'bad.json', task)
  with pytest.raises(DataError, match=re.escape(message)) as refused:
    solver.solve(spec)
  assert spec in str(refused.value) and '\n' not in str(refused.value)
  with pytest.raises(DataError, match=re.escape(message)):
    solver.solve({'name': 'bad', **task})


@pytest.mark.parametrize(
  'puzzles, error, message',
  [
    (SUDOKU, ConfigError, 'trained on ARC tasks on a canvas of 4 × 4; 1.3434'),
    ([], DataError, 'the list of puzzles is empty'),
    (3, DataError, 'int is no puzzle; give a path, a task as a dict'),
    ('nowhere.json', DataError, 'no such directory or file'),
  ],
)
def test_what_cannot_be_asked_is_refused(solver, puzzles, error, message):
  with pytest.raises(error, match=re.escape(message)):
    solver.solve(puzzles)


def test_what_a_sudoku_checkpoint_cannot_do_is_refused(sudokus, tmp_path):
  with pytest.raises(DataError, match='no solution'):
    sudokus.solve('1111' + '.' * 12)
  with pytest.raises(DataError, match='has 15 characters; a Sudoku has 16'):
    sudokus.solve(SUDOKU[1:])
  with pytest.raises(ConfigError, match=r'Sudokus of 4 × 4.*Sudokus of 6 × 6'):
    sudokus.solve('.23456456123.31564.64231312645645312')
  spec = _write(tmp_path / 'task.json', random_task(1))
  with pytest.raises(ConfigError, match='has ARC tasks'):
    sudokus.solve(spec)
  with pytest.raises(ConfigError, match='no rows of their own'):
    sudokus.adapt(SUDOKU)


def test_a_published_checkpoint_answers_as_the_run_it_came_from(
  trained_hrm, tmp_path
):
  convert.write(trained_hrm, tmp_path / 'step_9.safetensors')
  solver = hrm_jax.load(tmp_path / 'step_9.safetensors')
  assert solver.step == 9 and solver.puzzle_kind == 'Sudokus of 4 × 4'
  assert _same(solver.solve(SUDOKU), hrm_jax.load(trained_hrm).solve(SUDOKU))
  with pytest.raises(ConfigError, match='no held-out puzzles are known'):
    solver.evaluate()


def test_public_names_are_imported_when_they_are_used():
  code = (
    'import sys, hrm_jax\n'
    'assert "jax" not in sys.modules and "Solver" in dir(hrm_jax)\n'
    'assert hrm_jax.load is hrm_jax.solver.load'
  )
  environment = {**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)}
  subprocess.run([sys.executable, '-c', code], check=True, env=environment)
  with pytest.raises(AttributeError, match="no attribute 'Solvers'"):
    hrm_jax.Solvers  # noqa: B018


def test_what_is_no_checkpoint_is_refused(tmp_path, random_arc_run):
  with pytest.raises(ConfigError, match=r'no config[.]json'):
    solvers.load(tmp_path)
  (tmp_path / 'config.json').write_text('{"model": ')
  with pytest.raises(ConfigError, match=r'config[.]json: not readable as JSON'):
    solvers.load(tmp_path)
  with pytest.raises(ConfigError, match='no checkpoint of step 3; there are 7'):
    solvers.load(random_arc_run, 3)


def test_of_a_part_only_its_own_leaks_are_told(random_arc_run):
  solver = solvers.load(random_arc_run)
  leaks = [Leak(name, 'test[0]', 'x', 'train[0]', 'both') for name in 'ab']
  # One of the run's record, whose puzzle the data no longer have.
  leaks.append(Leak('gone', 'test[0]', 'x', 'train[0]', 'both'))
  vars(solver)['leaks'] = Verdict(leaks, (), True)
  part = solver.evaluate(solver.held_out(1, max_puzzles=1))
  (scored,) = (answer.name for answer in part.answers)
  assert {leak.held_out for leak in part.leaks.leaks} == {scored, 'gone'}
  assert part.facts['leaks']['answers'] == 2
  assert (part.facts['puzzles'], part.facts['held_out_puzzles']) == (1, 2)
  assert 'on a part of what is held out: 1 of 2' in part.report()
  whole = solver.evaluate(solver.held_out(1))
  assert whole.facts['leaks']['answers'] == 3
  assert 'part of' not in whole.report()
