"""Tasks of ARC solved by CompressARC, many at once, with what is kept on disk.

Tasks whose padded arrays have the same sizes make up groups. A group has one
program, which trains as many of its tasks at a time as there are places, each
device having some; where one ends, the next takes its place. It is kept on disk
meanwhile: a run that is killed goes on from there, and finds bit for bit the
same. Of several processes each has groups of its own.
"""

import collections
import dataclasses
import functools
import io
import json
import math
import pathlib
import time
import zipfile
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import hrm_jax.solver
from data_pipelines import files
from data_pipelines.arc.tasks import MAX_SIDE, Task, TaskSet
from data_pipelines.errors import ConfigError, DataError, first_line
from data_pipelines.files import shown
from data_pipelines.progress import Progress
from hrm_jax.compressarc import fit, multitensor
from hrm_jax.compressarc.fit import Ranking, Told
from hrm_jax.compressarc.problem import Problem, pad, prepare
from hrm_jax.parallel import processes
from hrm_jax.solver import Answer, Puzzle, Puzzles

# Steps of one call of the device.
STEPS = 25
# What E, C, X and Y are rounded up to: on CPUs, where tasks are trained one by
# one, and where many at a time make up for what is padded (ARC's evaluation
# tasks need 272 programs, or 30 of twice the positions).
_ROUND, _ROUND_MORE = (1, 1, 3, 3), (4, 5, 10, 10)
# A training step's bytes of memory for each position of a task's arrays.
_POSITION = 50_000
# Seconds between two savings.
_SAVE_EVERY = 20.0
# What the processes of a run wait for each other at most: a month.
_PATIENCE_SECONDS = 30 * 24 * 3600
# Candidates that an answer has for each test input, and that are kept.
_KEPT = 100
# E, C, X and Y of padded arrays.
Sizes = tuple[int, int, int, int]
WAY = 'a network trained on this task alone (CompressARC)'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
  """How tasks are compressed; what is kept on disk goes on by the same alone.

  Attributes:
    num_steps: optimizer steps for each task.
    seed: seed of the weights and of the noise.
    batch_size: most tasks that are trained at a time; None for as many as
      memory holds, on CPUs one for each device.
    patience: number of steps after which a task whose first guess has not
      changed ends; None for none, as published.
  """

  num_steps: int = 1500
  seed: int = 0
  batch_size: int | None = None
  patience: int | None = None


class Then(NamedTuple):
  """KL, error and answer after so many steps."""

  steps: int
  kl: list[float]  # nats that each of the 18 tensors tells
  error: float  # reconstruction error in nats
  answer: int  # which of the ranking's candidates, as they were seen


@dataclasses.dataclass(eq=False)
class Found:
  """A task, and what is known of it so far.

  Attributes:
    task: the task.
    steps: how many were taken.
    kl: nats that each of the 18 tensors tells, by its letters.
    error: reconstruction error in nats.
    ranking: the two guesses, and every candidate that was seen.
    since: step from which the first guess is what it is.
    course: KL, error and answer of a step now and then.
  """

  task: Task
  steps: int = 0
  kl: dict[str, float] = dataclasses.field(default_factory=dict)
  error: float = math.nan
  ranking: Ranking = dataclasses.field(default_factory=Ranking)
  since: int = 0
  course: list[Then] = dataclasses.field(default_factory=list)

  def ended(self, plan: Plan) -> bool:
    """Whether no more steps are due."""
    stands = self.steps - self.since
    return self.steps >= plan.num_steps or (
      plan.patience is not None and stands >= plan.patience
    )

  def add(self, told: Told, problem: Problem) -> None:
    """Takes in what some steps told."""
    seen = fit.candidates(told, problem)
    for place, (grids, score) in enumerate(seen):
      before = self.ranking.first
      self.ranking.add(grids, score)
      if self.ranking.first != before:
        self.since = self.steps + place // 2
    self.steps += len(told.error)
    self.error = float(told.error[-1])
    self.kl = {
      letters: float(getattr(told.kl, part)[-1, kind])
      for letters, (part, kind) in multitensor.tensors().items()
    }
    # What the network says, and then what the average of it says.
    answer = [*self.ranking.scores].index(seen[-2][0])
    then = Then(self.steps, [*self.kl.values()], self.error, answer)
    self.course.append(then)

  def record(self) -> dict[str, Any]:
    """All but the task, as JSON takes it."""
    return {
      'steps': self.steps, 'kl': self.kl, 'error': self.error,
      'since': self.since, 'course': self.course,
      'ranking': self.ranking.record(),
    }  # fmt: skip

  def take(self, record: dict[str, Any]) -> None:
    """The inverse of `record`."""
    self.steps, self.since = record['steps'], record['since']
    self.kl, self.error = record['kl'], record['error']
    self.course = [Then(*then) for then in record['course']]
    self.ranking = Ranking.of(record['ranking'])

  def answer(self) -> Answer:
    """The two guesses and then the best candidates, as `Solver` answers."""
    tests = range(len(self.task.tests))
    attempts = [self.ranking.candidates(test, _KEPT) for test in tests]
    cast = [sum(self.ranking.counts.values())] * len(tests)
    return hrm_jax.solver.answer_of(self.task, attempts, cast, WAY)


# Called with what tasks have found, and whether that was logged.
Tell = Callable[[Sequence[Found], bool], None]


def compress(
  puzzles: Puzzles,
  num_steps: int = 1500,
  seed: int = 0,
  seconds: float | None = None,
) -> Answer | list[Answer]:
  """Solves tasks of ARC, each by a small network that is trained on it alone.

  This is CompressARC (arXiv 2512.06104): no checkpoint is needed. Answers of
  test inputs are not read.

  Args:
    puzzles: a task or a list of them, as `Solver.solve` takes them.
    num_steps: optimizer steps for each task; the paper's table has 2000.
    seed: seed of the weights and of the noise.
    seconds: greatest time for all tasks together; None for no limit.

  Returns:
    An answer; for a list, or what names a set of tasks, a list of them in the
    same order. The first two attempts are CompressARC's two guesses.

  Raises:
    DataError: tasks that cannot be used.
  """
  given, single = read(puzzles)
  plan = Plan(num_steps=num_steps, seed=seed)
  answers = [one.answer() for one in solve(given, plan, seconds)]
  return answers[0] if single else answers


def read(puzzles: Puzzles) -> tuple[TaskSet, bool]:
  """Reads tasks, and whether one answer is due for them.

  Raises:
    DataError: tasks that cannot be used, or puzzles of another kind.
  """

  def check(found: Any, item: Puzzle) -> None:
    if not isinstance(found, TaskSet):
      what = shown(item) if isinstance(item, str) else 'the puzzle given'
      raise DataError(
        f'{what}: CompressARC solves tasks of ARC alone; give one of these'
      )

  together, single, where = hrm_jax.solver.read(puzzles, check)
  assert isinstance(together, TaskSet)
  for task in together.tasks:
    name = f'{shown(where)}: task {task.name!r}'
    for kind, pairs in (('train', task.demonstrations), ('test', task.tests)):
      if not pairs:
        raise DataError(f'{name}: {kind} has no pair; add at least one')
    if not task.fits(MAX_SIDE):
      raise DataError(
        f'{name}: has a grid of more than {MAX_SIDE} rows or columns, which '
        'tasks of ARC never have; leave the task out'
      )
  return together, single


def solve(
  tasks: TaskSet,
  plan: Plan,
  seconds: float | None = None,
  directory: pathlib.Path | None = None,
  tell: Tell | None = None,
) -> list[Found]:
  """Solves tasks, in their order.

  Args:
    tasks: as `read` gives them.
    plan: how they are compressed.
    seconds: greatest time for all; None for no limit.
    directory: where the work is kept; what is there goes on. The processes of a
      run share the groups where they share a directory.
    tell: called with all tasks first, and then with those at work, where a line
      of progress was logged and where they are done.

  Raises:
    ConfigError: the directory has other work, or cannot be used.
  """
  memory = _memory()
  if directory:
    kept = functools.partial(_same_work, directory, tasks, plan, memory)
    memory = processes.from_first(kept)
  groups = grouped(tasks.tasks, plan, memory, jax.local_device_count())
  end = math.inf if seconds is None else time.monotonic() + seconds
  paths = [
    directory and directory / f'group_{i}.npz' for i in range(len(groups))
  ]
  every = list(zip(groups, paths, strict=True))
  mine = every
  if directory:
    mine = every[jax.process_index() :: jax.process_count()]
  others = [one for one in every if one not in mine]
  known = _look(every)
  if tell:
    tell(known, False)
  work = sum(group.work() for group, _ in mine)
  progress = Progress('array positions trained', work)
  for number, (group, path) in enumerate(mine):
    if not group.due():
      continue
    if path and path.exists():
      group.read(path)
    saved = time.monotonic()
    # What is left of the time is for all tasks that are left.
    share = group.due() / sum(one.due() for one, _ in mine[number:])
    until = saved + (end - saved) * share
    while group.due() and time.monotonic() < until:
      before = group.work()
      group.advance()
      now = time.monotonic()
      stops = not group.due() or now >= until
      if path and (now - saved > _SAVE_EVERY or stops):
        group.write(path)
        saved = now
      logged = progress.add(before - group.work())
      if tell and (logged or stops):
        tell([*group.found, *_look(others)], logged)
    group.forget()
  if others:
    processes.meet(_PATIENCE_SECONDS)
    known = _look(others)
    if tell:
      tell(known, False)
  named = {one.task.name: one for group in groups for one in group.found}
  return [named[task.name] for task in tasks.tasks]


def _look(
  groups: Sequence[tuple['Group', pathlib.Path | None]],
) -> list[Found]:
  """What is known by now of groups that are kept on disk."""
  for group, path in groups:
    if path and path.exists():
      group.read(path)
      group.forget()
  return [one for group, _ in groups for one in group.found]


class Group:
  """Tasks of the same sizes; a program trains some of them at a time.

  Attributes:
    found: the tasks, and what is known of them.
    lanes: how many are trained at a time.
    volume: positions of their arrays.
  """

  def __init__(
    self, tasks: Sequence[Task], sizes: Sizes, lanes: int, plan: Plan
  ):
    self.found = [Found(task) for task in tasks]
    self._sizes, self._plan = sizes, plan
    # The task of each lane; those after the last one have none.
    self._of_lane: list[int | None] = [
      lane if lane < len(tasks) else None for lane in range(lanes)
    ]
    self.lanes, self.volume = lanes, lanes * _positions(sizes)
    self._padded: list[Problem] = []  # of the lanes
    # On the devices.
    self._states: Any = None
    self._problems: Any = None

  def due(self) -> int:
    """Number of tasks that have not ended."""
    return sum(not one.ended(self._plan) for one in self.found)

  def work(self) -> int:
    """Steps that these may take, times the positions of a task's arrays."""
    steps = sum(
      self._plan.num_steps - one.steps
      for one in self.found
      if not one.ended(self._plan)
    )
    return steps * _positions(self._sizes)

  def _problem(self, one: Found) -> Problem:
    return pad(prepare(one.task), self._sizes)

  def _place(self, states: Any) -> None:
    """Places on the devices what is trained; each has some of the tasks."""
    self._padded = [self._problem(self.found[x or 0]) for x in self._of_lane]
    problems = jax.tree.map(lambda *leaves: np.stack(leaves), *self._padded)
    self._states, self._problems = jax.device_put(
      (states, problems),
      NamedSharding(self.mesh(jax.local_devices()), PartitionSpec('tasks')),
    )

  def mesh(self, devices: Sequence[jax.Device]) -> Mesh:
    """Those of these devices that have a part of what is trained."""
    return Mesh(np.array(devices[: self.lanes]), ('tasks',))

  def lower(self, devices: Sequence[jax.Device]) -> jax.stages.Lowered:
    """The program of `STEPS` steps, for devices that need not be there."""
    mesh = self.mesh(devices)
    split = NamedSharding(mesh, PartitionSpec('tasks'))

    def abstract(leaf):
      shape = self.lanes, *np.shape(leaf)
      return jax.ShapeDtypeStruct(shape, leaf.dtype, sharding=split)

    states, problems, taken = jax.tree.map(
      abstract, (self._fresh(), self._problem(self.found[0]), np.int32(0))
    )
    key = jax.eval_shape(jax.random.key, 0)
    key = key.update(sharding=NamedSharding(mesh, PartitionSpec()))
    program = fit.compiled_for(devices[0].platform)
    return program.lower(states, problems, key, taken, STEPS)

  def _fresh(self) -> Any:
    """What each task begins with: of the same sizes it is the same."""
    return fit.initial(self._plan.seed, self._problem(self.found[0]))

  def advance(self) -> None:
    """Takes some steps; fewer count where all that are due are taken."""
    if self._problems is None:
      states = self._states
      if states is None:
        states = jax.tree.map(
          lambda leaf: np.stack([leaf] * self.lanes), self._fresh()
        )
      self._place(states)
    lanes = [
      (lane, self.found[number])
      for lane, number in enumerate(self._of_lane)
      if number is not None
    ]
    taken = np.zeros(self.lanes, np.int32)
    for lane, one in lanes:
      taken[lane] = one.steps
    self._states, told = fit.steps(
      self._states, self._problems, jax.random.key(self._plan.seed), taken,
      STEPS,
    )  # fmt: skip
    told = jax.device_get(told)
    for lane, one in lanes:
      count = min(STEPS, self._plan.num_steps - one.steps)
      mine = jax.tree.map(lambda a, lane=lane, n=count: a[:n, lane], told)
      one.add(mine, self._padded[lane])
    self._replace([lane for lane, one in lanes if one.ended(self._plan)])

  def _replace(self, lanes: Sequence[int]) -> None:
    """Gives lanes whose task has ended those that have not begun."""
    waiting = [i for i, one in enumerate(self.found) if not one.steps]
    next_ones = [*zip(lanes, waiting, strict=False)]
    for lane in lanes:
      self._of_lane[lane] = None
    if not next_ones:
      return
    for lane, number in next_ones:
      self._of_lane[lane] = number
    begun = [lane for lane, _ in next_ones]
    states = jax.tree.map(np.array, jax.device_get(self._states))
    for leaf, first in zip(
      jax.tree.leaves(states), jax.tree.leaves(self._fresh()), strict=True
    ):
      leaf[begun] = first
    self._place(states)

  def forget(self) -> None:
    """Gives up the memory of what is trained."""
    self._states = self._problems = None

  def write(self, path: pathlib.Path) -> None:
    """Keeps all that is needed to go on; of what is done, what was found."""
    record = {
      'lanes': self._of_lane,
      'found': [one.record() for one in self.found],
    }  # fmt: skip
    leaves = []
    if self.due():
      leaves = jax.tree.leaves(jax.device_get(self._states))
    with (
      files.writing(path, 'mend that and start again'),
      files.replacing(path) as part,
      part.open('wb') as file,
    ):
      np.savez(file, *leaves, record=json.dumps(record))

  def read(self, path: pathlib.Path) -> None:
    """The inverse of `write`."""
    try:
      with files.reading(path), np.load(io.BytesIO(files.read(path))) as file:
        record = json.loads(str(file['record']))
        leaves = [file[f'arr_{i}'] for i in range(len(file.files) - 1)]
      self._of_lane = record['lanes']
      for one, kept in zip(self.found, record['found'], strict=True):
        one.take(kept)
      if leaves:
        places = jax.tree.structure(self._fresh())
        self._states = jax.tree.unflatten(places, leaves)
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
      raise DataError(
        f'{shown(path)}: cannot be used ({first_line(error)}); remove it, and '
        'its tasks begin anew'
      ) from None


def _positions(sizes: Sizes) -> int:
  """Those of a task's arrays."""
  E, C, X, Y = sizes
  return E * (C + 1) * (X + 1) * (Y + 2)


def room(capacity: int) -> int:
  """Bytes that a group may take of so many of a device's memory."""
  return capacity // 2


def _memory() -> int:
  """Bytes that a group may take on each device; 0 on CPUs.

  There eight tasks at a time take as long as one after another, or longer.
  """
  stats = jax.local_devices()[0].memory_stats() or {}
  return room(stats.get('bytes_limit', 0))


def grouped(
  tasks: Sequence[Task], plan: Plan, memory: int, devices: int
) -> list[Group]:
  """Tasks by the sizes of their padded arrays, small ones first.

  `memory` is what a group may take on each of the devices, in bytes; 0 where
  a device trains one task at a time.
  """
  of_sizes = collections.defaultdict[Sizes, list[Task]](list)
  lone, guessed = [], []
  units = _ROUND_MORE if memory else _ROUND
  for task in tasks:
    problem = prepare(task)
    E, C, X, Y = (
      -(-max(size, 1) // unit) * unit
      for size, unit in zip(problem.sizes.tolist(), units, strict=True)
    )
    sizes = E, C, X, Y
    of_sizes[sizes].append(task)
    if not problem.sizes[1]:
      lone.append(task.name)
    if problem.uncertain[1]:
      guessed.append(task.name)
  for names, what in (
    (lone, 'black alone, and so have their answers'),
    (guessed, 'outputs whose sizes follow no rule that is known; these are '
     'guessed'),
  ):  # fmt: skip
    if names:
      some = ', '.join(map(shown, names[:5])) + ' …' * (len(names) > 5)
      logging.warning('%d of the tasks (%s) have %s', len(names), some, what)
  groups = []
  for sizes in sorted(of_sizes, key=_positions):
    mine = of_sizes[sizes]
    held = devices * memory // (_POSITION * _positions(sizes))
    most = plan.batch_size or max(devices, held)
    # As many for each device.
    spread = min(devices, len(mine), most)
    parts = -(-len(mine) // most)
    lanes = -(-len(mine) // (parts * spread)) * spread
    groups.append(Group(mine, sizes, lanes, plan))
  return groups


def _same_work(
  directory: pathlib.Path, tasks: TaskSet, plan: Plan, memory: int
) -> int:
  """Begins work in a directory, or sees to it that it is the same.

  Returns:
    The memory that its groups were made for.
  """
  path = directory / 'work.json'
  names = [task.name for task in tasks.tasks]
  work = {
    'form': 2, 'jax': jax.__version__, 'tasks': tasks.version,
    'names': names, **dataclasses.asdict(plan),
    'devices': [device.device_kind for device in jax.local_devices()],
  }  # fmt: skip
  if not path.exists():
    with files.writing(path, 'name another directory'):
      directory.mkdir(parents=True, exist_ok=True)
      files.write_json(path, work | {'memory': memory})
    return memory
  kept = files.parse_json(files.read(path), path)
  if not isinstance(kept, dict) or not isinstance(kept.get('memory'), int):
    raise DataError(f'{shown(path)}: is no record of work; remove {directory}')
  for name, value in work.items():
    if kept.get(name) != value:
      given = '' if name == 'names' else f' {value!r}, not {kept.get(name)!r}'
      raise ConfigError(
        f'{shown(directory)}: has work with other {name}{given}; name another '
        'directory, or remove this one to begin anew'
      )
  return kept['memory']
