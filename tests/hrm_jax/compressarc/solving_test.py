"""Tasks that are trained together, killed and begun again, or odd."""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest

import hrm_jax
from data_pipelines.arc.tasks import Pair, Task, TaskSet, load_tasks
from data_pipelines.errors import ConfigError, DataError
from hrm_jax.compressarc import fit, multitensor, solving
from hrm_jax.compressarc.problem import pad, prepare
from hrm_jax.compressarc.solving import Found, Plan, Then

_PLAN = Plan(num_steps=5)


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
  """Steps of one call of the device: all tests compile the same program."""
  monkeypatch.setattr(solving, 'STEPS', 2)


def _task(name, seed, *shapes, colours=4):
  """Random pairs of grids of these shapes; the last one is the test.

  Of two colours beside black the gradient of the tensor C is rounding alone.
  """
  rng = np.random.default_rng(seed)
  pairs = [
    Pair(*(rng.integers(0, colours, shape, np.uint8) for shape in both))
    for both in shapes
  ]
  return Task(name, tuple(pairs[:-1]), tuple(pairs[-1:]))


def _together():
  """Two tasks of one group: black alone, and outputs of unknown sizes."""
  square = (3, 3), (3, 3)
  black = _task('black', 0, square, square, square, colours=1)
  shapes = ((2, 3), (1, 2)), ((3, 3), (3, 1)), ((3, 2), (2, 2))
  odd = _task('odd', 1, *shapes, colours=2)
  return TaskSet('two tasks', (black, odd))


def _embed(small, large):
  """Puts an array of a task into a padded one; the last slot of Y stays so."""
  out = np.array(large)
  if small.ndim < 4:
    return np.array(small)
  E, C, X, Y = small.shape[:4]
  out[:E, :C, :X, : Y - 1] = small[:, :, :, :-1]
  out[:E, :C, :X, -1] = small[:, :, :, -1]
  return out


@pytest.mark.slow
def test_tasks_together_are_what_they_are_alone():
  three = ((2, 3), (2, 3)), ((3, 3), (3, 3)), ((2, 2), (2, 2))
  tasks = [
    _task('same', 2, *three),
    _task('out', 3, *[((3, 2), (1, 3))] * 4),
    _task('free', 4, ((2, 3), (1, 2)), ((1, 3), (2, 2)), ((2, 1), (1, 1))),
  ]
  sizes = 4, 3, 3, 3
  # Rounding grows a hundredfold a step; with these draws it grows least.
  rng = np.random.default_rng(8)
  problems = [prepare(task) for task in tasks]
  assert len({tuple(problem.sizes) for problem in problems}) == 3
  padded = [pad(problem, sizes) for problem in problems]
  with jax.enable_x64(True):
    alone = [fit.initial(10, problem, np.float64) for problem in problems]
    # Whatever stands where there is nothing, nothing comes of it.
    states = []
    for own, problem in zip(alone, padded, strict=True):
      whole = fit.initial(8, problem, np.float64)
      latents = jax.tree.map(_embed, own.latents, whole.latents)
      states.append(whole._replace(latents=latents, weights=own.weights))
    stacked = jax.tree.map(lambda *x: np.stack(x), *states)
    problem = jax.tree.map(lambda *x: np.stack(x), *padded)
    every = jax.jit(jax.vmap(fit.step, in_axes=(0, 0, 0, None)))
    step = jax.jit(fit.step)
    for number in range(5):
      drawn = [
        jax.tree.map(lambda x: rng.normal(size=x.shape), own.latents.mean)
        for own in alone
      ]
      like = jax.tree.map(
        lambda x: rng.normal(size=x.shape[1:]), stacked.latents.mean
      )
      noise = [jax.tree.map(_embed, one, like) for one in drawn]
      noise = jax.tree.map(lambda *x: np.stack(x), *noise)
      stacked, told = jax.device_get(every(stacked, problem, noise, number))
      for lane, own in enumerate(alone):
        alone[lane], mine = jax.device_get(
          step(own, problems[lane], drawn[lane], number)
        )
        theirs = jax.tree.map(lambda x, lane=lane: x[lane], told)
        for name in ('kl', 'error', 'scores'):
          for a, b in zip(
            jax.tree.leaves(getattr(theirs, name)),
            jax.tree.leaves(getattr(mine, name)),
            strict=True,
          ):
            np.testing.assert_allclose(a, b, rtol=1e-9, err_msg=name)
        grids = [fit.candidates(theirs, padded[lane])]
        grids.append(fit.candidates(mine, problems[lane]))
        assert [x for x, _ in grids[0]] == [x for x, _ in grids[1]]


@pytest.mark.slow
def test_layers_computed_anew_are_the_same():
  """As TPUs do; the program differs, or nothing would be proved."""
  problem = prepare(_task('same', 2, ((2, 3), (2, 3))))
  with jax.enable_x64(True):
    state = fit.initial(0, problem, np.float64)
    noise = jax.tree.map(np.ones_like, state.latents.mean)
    kept, anew = (
      jax.jit(functools.partial(fit.gradient, remat=remat)).lower(
        state, problem, noise, 0
      )
      for remat in (False, True)
    )
    assert 'optimization_barrier' in anew.as_text()
    assert 'optimization_barrier' not in kept.as_text()
    found = [one.compile()(state, problem, noise, 0) for one in (kept, anew)]
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12),
    *found,
  )


def _records(found):
  return json.dumps([one.record() for one in found])


def test_what_is_found_is_taken_back_whole():
  task = _together().tasks[0]
  then = Then(3, [1.5, 2.5], 0.5, 1)
  found = Found(task, 3, {'C': 1.5, 'EC': 2.5}, 0.5, since=2, course=[then])
  for grids, score in (((((1,),),), -1.5), ((((2, 0),),), -0.5)):
    found.ranking.add(grids, score)
  again = Found(task)
  again.take(json.loads(json.dumps(found.record())))
  assert again.record() == found.record()
  assert (again.steps, again.since, again.course) == (3, 2, [then])
  assert again.ranking.guesses() == found.ranking.guesses()


def test_the_step_is_told_since_which_the_first_guess_stands(monkeypatch):
  one, two = (((1,),),), (((2,),),)
  # Of two steps, each of two candidates.
  seen = [(one, -3.0), (one, -3.0), (two, -1.0), (two, -2.0)]
  monkeypatch.setattr(fit, 'candidates', lambda told, problem: seen)
  kl = multitensor.Multi(*np.ones((2, 2, multitensor.KINDS)))
  found = Found(_together().tasks[0], steps=4)
  found.add(fit.Told(kl, np.array([2.0, 1.0]), None, None), None)
  assert found.since == 5 and found.steps == 6
  assert found.course == [Then(6, [1.0] * 18, 1.0, 1)]


@pytest.mark.slow
def test_what_is_killed_goes_on_to_the_same_end(tmp_path, monkeypatch):
  tasks = _together()
  undisturbed = _records(solving.solve(tasks, _PLAN))

  class Killed(Exception):
    pass

  advance, told = solving.Group.advance, []

  def kill(group):
    # What was kept is told of before any more work.
    assert [x.steps for x in told] == [x.steps for x in group.found]
    advance(group)
    if group.found[0].steps >= least:
      raise Killed

  def tell(found, logged):
    del logged
    told[:] = found

  place = tmp_path
  # Seconds between savings, and the step from which it is killed.
  for number, case in enumerate([(0, 3), (0, 5), (1e9, 3)]):
    every, least = case
    monkeypatch.setattr(solving, '_SAVE_EVERY', every)
    place = tmp_path / str(number)
    with monkeypatch.context() as patch, pytest.raises(Killed):
      patch.setattr(solving.Group, 'advance', kill)
      solving.solve(tasks, _PLAN, directory=place, tell=tell)
    assert (place / 'group_0.npz').exists() == (every == 0)
    found = solving.solve(tasks, _PLAN, directory=place)
    assert _records(found) == undisturbed
    assert [one.steps for one in found] == [5, 5]
    # What is done is not done again.
    least = 0
    with monkeypatch.context() as patch:
      patch.setattr(solving.Group, 'advance', kill)
      again = solving.solve(tasks, _PLAN, directory=place, tell=tell)
    assert _records(again) == _records(told) == undisturbed
  with pytest.raises(ConfigError, match='other num_steps 6, not 5'):
    solving.solve(tasks, Plan(num_steps=6), directory=place)
  others = tasks._replace(version='others')
  with pytest.raises(ConfigError, match="other tasks 'others', not 'two tasks"):
    solving.solve(others, _PLAN, directory=place)
  (place / 'group_0.npz').write_bytes(b'PK')
  with pytest.raises(DataError, match=r'group_0\.npz: cannot be used .*remove'):
    solving.solve(tasks, _PLAN, directory=place)


@pytest.mark.slow
def test_odd_tasks_are_answered_and_told_of(caplog):
  tasks = _together()
  black, odd = hrm_jax.compress([*tasks.tasks], num_steps=2)
  assert (black.name, odd.name) == ('black', 'odd')
  assert not black.grids[0].any()
  assert odd.grids[0] is not None and odd.grids[0].size
  assert sum(one.votes for one in odd.attempts[0]) == odd.cast[0] == 4
  assert odd.confidence[0] <= 1
  assert '1 of the tasks (black) have black alone' in caplog.text
  assert '1 of the tasks (odd) have outputs whose sizes' in caplog.text


def test_a_task_ends_where_its_first_guess_stands_for_long():
  found = Found(_together().tasks[0], steps=5, since=3)
  patient = dataclasses.replace(_PLAN, num_steps=9, patience=3)
  assert not found.ended(patient)
  assert found.ended(dataclasses.replace(patient, patience=2))
  assert not found.ended(dataclasses.replace(patient, patience=None))
  assert found.ended(_PLAN)


@pytest.mark.slow
def test_each_step_has_its_number():
  task = _task('a', 1, *[((3, 3), (3, 3))] * 3, colours=2)
  plan = Plan(num_steps=6, batch_size=1)
  (found,) = solving.solve(TaskSet('one', (task,)), plan)
  problem = prepare(task)
  problems, states = jax.tree.map(
    lambda leaf: leaf[None], (problem, fit.initial(0, problem))
  )
  key, errors = jax.random.key(0), []
  for taken in (0, 2, 4):
    before = np.array([taken], np.int32)
    states, told = fit.steps(states, problems, key, before, 2)
    errors.append(float(told.error[-1, 0]))
  assert [then.error for then in found.course] == errors


@pytest.mark.slow
@pytest.mark.parametrize('early', [None, 'a', 'b'])
def test_where_one_ends_the_next_takes_its_place(tmp_path, monkeypatch, early):
  """Each is what it is alone, whatever was in its place before."""
  shapes = [((3, 3), (3, 3))] * 3
  three = [_task(name, i, *shapes, colours=2) for i, name in enumerate('abc')]
  ended = Found.ended

  def sooner(found, plan):
    return ended(found, plan) or (found.task.name == early and found.steps >= 2)

  monkeypatch.setattr(Found, 'ended', sooner)
  # One place, and two.
  plans = [Plan(num_steps=6, batch_size=size) for size in (1, 2)]
  alone = [
    _records(solving.solve(TaskSet('one', (task,)), plans[0])) for task in three
  ]
  assert [json.loads(one)[0]['steps'] for one in alone] == [
    2 if task.name == early else 6 for task in three
  ]
  monkeypatch.setattr(solving, '_SAVE_EVERY', 0)
  advance = solving.Group.advance

  def kill(group):
    if group.found[0].steps >= least:
      raise KeyboardInterrupt
    advance(group)

  together = TaskSet('three', tuple(three))
  for plan in plans:
    # Before the first one ends, and after that.
    for least in (2, 6) if early != 'a' else (2,):
      place = tmp_path / f'{plan.batch_size}_{least}'
      with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(solving.Group, 'advance', kill)
        solving.solve(together, plan, directory=place)
      found = solving.solve(together, plan, directory=place)
      assert [_records([one]) for one in found] == alone


def test_without_time_nothing_is_answered():
  (black, _) = solving.solve(_together(), _PLAN, seconds=0)
  assert black.steps == 0
  assert black.answer().grids == (None,)


def _without(task, **fields):
  return dataclasses.replace(task, **fields)


@pytest.mark.parametrize(
  'puzzles, message',
  [
    ('1.34341221434321', 'solves tasks of ARC alone'),
    (_without(_task('t', 0, *[((1, 1), (1, 1))] * 2), demonstrations=()),
     "task 't': train has no pair"),
    (_without(_task('t', 0, *[((1, 1), (1, 1))] * 2), tests=()),
     "task 't': test has no pair"),
    (_task('t', 0, *[((1, 1), (31, 1))] * 2), 'more than 30 rows or columns'),
    ({'train': [], 'test': []}, 'at least one pair'),
    ({'train': [{'input': [[1]], 'output': [[1]]}],
      'test': [{'output': [[1]]}]},
     r'test\[0\] has no input'),
    ([], 'the list of puzzles is empty'),
  ],
)  # fmt: skip
def test_what_cannot_be_used_is_named(puzzles, message):
  with pytest.raises(DataError, match=message):
    hrm_jax.compress(puzzles)


def test_tasks_of_similar_sizes_make_up_groups():
  tasks = load_tasks('arc1:training').tasks
  groups = solving.grouped(tasks, _PLAN, 2**32, 8)
  grouped = [one.task.name for group in groups for one in group.found]
  assert sorted(grouped) == sorted(task.name for task in tasks)
  assert len(groups) < len(tasks) / 8
  one_by_one = solving.grouped(tasks, _PLAN, 0, 8)
  assert len(groups) < len(one_by_one) < len(tasks) * 3 / 4
  # They share a program, as many at a time as are asked for.
  alone = solving.grouped(tasks, Plan(batch_size=1), 2**32, 8)
  assert len(alone) == len(groups)
  assert max(group.lanes for group in groups) > 1
  assert all(group.lanes == 1 for group in alone)


@pytest.mark.parametrize('directory', [True, False])
def test_processes_share_the_groups_that_they_keep(
  tmp_path, monkeypatch, directory
):
  square, oblong = ((3, 3), (3, 3)), ((3, 6), (3, 6))
  tasks = tuple(
    _task(name, seed, *[shape] * 3)
    for seed, (name, shape) in enumerate([('a', square), ('b', oblong)])
  )
  taken, met = [], []

  def advance(group):
    for one in group.found:
      one.steps = _PLAN.num_steps
    taken.append([one.task.name for one in group.found])

  def meet(seconds):
    met.append(seconds)

  monkeypatch.setattr(solving.Group, 'advance', advance)
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  monkeypatch.setattr(jax, 'process_index', lambda: 1)
  monkeypatch.setattr(solving.processes, 'from_first', lambda function: 0)
  monkeypatch.setattr(solving.processes, 'meet', meet)
  where = tmp_path if directory else None
  found = solving.solve(TaskSet('two', tasks), _PLAN, directory=where)
  assert [one.task.name for one in found] == ['a', 'b']
  assert taken == ([['b']] if directory else [['a'], ['b']])
  # They wait for each other as long as a task may take, and longer.
  assert all(seconds > 24 * 3600 for seconds in met)
  assert len(met) == directory
