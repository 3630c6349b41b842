"""Trains a model further on new ARC tasks, and answers them.

  hrm-jax adapt --workdir=DIR --task=SPEC --out=NEW [--steps=N] [--seconds=S]
      [--rows_first=0.25] [--new_rows=zero|mean] [--old_share=0]
      [--num_aug=N] [--settings=KEY=VALUE,...]

A model knows a task by its rows of the puzzle table. The new tasks get rows
for themselves and their augmentations; first these alone learn from the
demonstrations, then the whole network does. NEW is the working directory of an
ordinary run, which every command reads; DIR stays as it is. Started again, the
same command goes on.

NEW/predictions/submission.json has an answer to each test of each task from the
beginning, in Kaggle's form: at first the test input itself, or where there is
an earlier file, what that has. It is written anew, whole, as votes come in;
tasks.json beside it says for each task how its votes agree, and names the tests
that nothing was predicted for. With --seconds all of this ends in time.

SPEC is what `hrm-jax predict` takes; test outputs are not trained on. Tasks
that cannot be used are named and left out.
"""

import contextlib
import dataclasses
import json
import math
import os
import pathlib
import threading
import time
from collections.abc import Callable
from typing import Any

import jax
from absl import flags, logging

import hrm_jax
import hrm_jax.solver
from data_pipelines import files
from data_pipelines import puzzles as specs
from data_pipelines.arc import tasks as arc
from data_pipelines.arc.tasks import Task, TaskSet
from data_pipelines.errors import ConfigError, DataError
from data_pipelines.files import shown
from experiments import predict
from experiments.cli import command, launch, shared_flags
from experiments.reporting import evaluation_files
from hrm_jax import training_run
from hrm_jax.parallel import preemption, processes
from hrm_jax.settings import Fitting
from hrm_jax.solver import Evaluation, Solver
from hrm_jax.training.loop import Preempted
from hrm_jax.workdir import config as workdir_config

_DEFAULTS = Fitting(steps=2000)
_FITTING = ('num_aug', 'seed', 'rows_first', 'new_rows', 'old_share')
FLAGS = shared_flags.define(
  'workdir', 'task', 'color', *shared_flags.PROCESSES,
  **{name: getattr(_DEFAULTS, name) for name in _FITTING},
)  # fmt: skip
shared_flags.require(FLAGS, 'task', 'my_tasks/')
shared_flags.path('out', None, 'Directory of the new run.', FLAGS)
shared_flags.require(FLAGS, 'out', 'runs/adapted')
flags.DEFINE_integer(
  'steps', None, 'Number of training steps, for all tasks together; with '
  f'--seconds the most of them. {_DEFAULTS.steps} if neither is set.',
  lower_bound=1, flag_values=FLAGS,
)  # fmt: skip
flags.DEFINE_float(
  'seconds', None, 'Time for everything, from the start of the process to the '
  'last file. What is left when the votes are in is not used. No limit if '
  'unset.', lower_bound=0, flag_values=FLAGS,
)  # fmt: skip

flags.DEFINE_list(
  'settings', [], "Settings that differ from those of the model's own run, "
  'as in optimizer.learning_rate=3e-4,batch_size=64.', flag_values=FLAGS,
)  # fmt: skip

# Of the time that is left when training begins, what predicting gets at most;
# and what it gets in a run that goes on, where no step was timed.
_PREDICTING_AT_MOST, _PREDICTING_AGAIN = 0.5, 0.3
# Votes of each test that there shall be time for.
_VOTES = 8
# Share of the time for training that is planned: machines are not even.
_PLANNED = 0.9
# For the last files, and for what is left of the process after these.
_LAST_SECONDS, _LAST_SHARE, _END_SECONDS = 3.0, 0.02, 0.5


def main(_) -> int | None:
  limit = Limit(FLAGS.seconds)
  damaged: arc.Damaged = {}
  if (kind := specs.kind(FLAGS.task)) != specs.ARC:
    raise ConfigError(
      f'--task={FLAGS.task}: {kind} have no rows of their own: there is '
      'nothing to adapt to; give tasks of ARC'
    )
  found = arc.load_tasks(FLAGS.task, damaged)
  answers = Answers(FLAGS.out / 'predictions', found.tasks, damaged)
  _first_writes(answers.path, answers.promise)
  if not found.tasks:
    raise DataError(f'{FLAGS.task}: none of {len(damaged)} tasks can be used')
  limit.end_for(answers)
  solver = hrm_jax.load(FLAGS.workdir)
  # Refused now, and not after the training.
  answers.leave_out(solver.read(found), solver)
  with preemption.listening(jax.default_backend()) as notice:
    if not _train(solver, found, limit, notice):
      return preemption.EXIT_CODE
    evaluation = _predict(found, answers, limit, notice)
  if evaluation is None or not answers.predicted:
    raise ConfigError(
      f'{answers.path}: nothing could be predicted in the time, all answers '
      'are fallbacks; raise --seconds'
    )
  if jax.process_index() == 0:
    out = answers.path.parent
    names = evaluation_files.write(evaluation, out, answers.given)
    predict.show(predict.tell(evaluation, command.coloured(FLAGS.color)))
    answers.tell()
    command.say(f'Written to {out}: {", ".join(names)}, tasks.json')
  return preemption.EXIT_CODE if _signalled(notice, limit) else None


class Limit:
  """The time that there is for everything, since the process was started."""

  def __init__(self, seconds: float | None):
    self._end, self._last = math.inf, 0.0
    if seconds is not None:
      self._end = time.monotonic() - launch.age() + seconds
      self._last = _LAST_SECONDS + _LAST_SHARE * seconds
    self.reason = f'--seconds={seconds}'

  def left(self) -> float:
    """Seconds that are left until the last files are to be written."""
    return self._end - time.monotonic() - self._last

  def end_for(self, answers: 'Answers') -> None:
    """Ends the process when the time is over, whatever it is at then.

    What computes or compiles cannot be stopped. The files are whole.
    """
    if self._end == math.inf:
      return

    def end():
      # Nothing is promised of a line that is being written.
      if jax.process_index() == 0:
        print(f'{self.reason}: the time is over; {answers}', flush=True)
      os._exit(0 if answers.predicted else 2)

    wait = max(0.0, self._end - _END_SECONDS - time.monotonic())
    timer = threading.Timer(wait, end)
    timer.daemon = True
    timer.start()


class Answers:
  """The files of answers to all tasks, whole at every moment.

  Attributes:
    path: submission.json; tasks.json stands beside it.
    given: the tasks in order, of damaged ones what is left of them.
    predicted: whether there was a prediction.
  """

  def __init__(
    self, directory: pathlib.Path, tasks: tuple[Task, ...], damaged: arc.Damaged
  ):
    self.path = directory / 'submission.json'
    sound = {task.name for task in tasks}
    self._why = {name: why for name, (_, why) in damaged.items()}
    left = (task for task, _ in damaged.values() if task.name not in sound)
    self.given = [*tasks, *left]
    self._reproduced = dict[str, tuple[int, int]]()
    self.predicted = self._earlier = False
    self._beside = self.path.with_name('tasks.json')
    for why in self._why.values():
      logging.warning('%s; it gets fallback answers', why)
    self._told = self._tasks(None)

  def promise(self) -> None:
    """Writes fallback answers, where there are no earlier ones."""
    stay = evaluation_files.promise(self.given, self.path.parent)
    # They are worth keeping where something was predicted.
    self._earlier = stay and (
      self._beside.exists() and '"votes"' in self._beside.read_text()
    )
    self._note()

  def leave_out(self, asked: hrm_jax.solver.Asked, solver: Solver) -> None:
    """Notes the tasks that do not fit a solver's canvas."""
    why = f'larger than the canvas of {solver.canvas} × {solver.canvas}'
    self._why |= {task.name: why for task in asked.left_out}
    self._told = self._tasks(None)
    self._note()

  def _note(self) -> None:
    """Writes what is told of the tasks, unless that is of earlier answers."""
    if jax.process_index() == 0 and not self._earlier:
      files.write_json(self._beside, self._told)

  def update(
    self,
    found: Evaluation,
    reproduced: dict[str, tuple[int, int]] | None = None,
  ) -> None:
    """Writes what is known by now."""
    self._reproduced |= reproduced or {}
    self._told, self.predicted = self._tasks(found), bool(found.candidates)
    self._earlier = False
    if jax.process_index() == 0:
      evaluation_files.write_submission(
        self.path.parent, found.candidates, self.given
      )
    self._note()

  def _tasks(self, found: Evaluation | None) -> dict[str, Any]:
    answers = {answer.name: answer for answer in found.answers} if found else {}
    told = {}
    for task in self.given:
      entry: dict[str, Any] = {}
      if task.name in self._reproduced:
        solved, of = self._reproduced[task.name]
        entry['demonstrations'] = {'solved': solved, 'of': of}
      answer = answers.get(task.name)
      tests = []
      for test in range(len(task.tests)):
        if not answer or not answer.attempts[test]:
          cast = answer.cast[test] if answer else 0
          why = 'no augmentation gave a grid' if cast else 'not reached'
          tests.append({'fallback': self._why.get(task.name, why)})
          continue
        best, cast = answer.attempts[test][0], answer.cast[test]
        tests.append(
          {
            'votes': best.votes,
            'cast': cast,
            'agreement': round(best.votes / cast, 4),
            'confidence': round(best.confidence, 4),
            'right': answer.right(2)[test],
          }
        )
      told[task.name] = entry | {'tests': tests}
    return told

  def __str__(self) -> str:
    """How many tests were predicted, and which were not and why."""
    tests = [x for entry in self._told.values() for x in entry['tests']]
    count = sum('fallback' not in test for test in tests)
    return (
      f'{self.path} has all {len(self._told)} tasks, and predictions for '
      f'{count} of {len(tests)} tests'
    )

  def tell(self) -> None:
    """Prints which tasks have fallback answers, and why."""
    reasons = dict[str, list[str]]()
    for name, entry in self._told.items():
      for test in entry['tests']:
        if why := test.get('fallback'):
          reasons.setdefault(why, []).append(shown(name))
    for why, names in reasons.items():
      names = list(dict.fromkeys(names))
      command.say(
        f'Fallback answers ({why}): {len(names)} tasks, '
        f'{", ".join(names[: predict.MAX_SHOWN])}'
        f'{" …" * (len(names) > predict.MAX_SHOWN)}'
      )
    command.say(f'{self}\n')


def _train(
  solver: Solver, found: TaskSet, limit: Limit, notice: preemption.Notice
) -> bool:
  """Trains as far as there is time; False where a signal ended it."""
  # The sound tasks, where the run finds them whatever becomes of SPEC.
  spec = FLAGS.out / 'tasks-challenges.json'
  tasks = {one.name: arc.as_json(one) for one in found.tasks}
  _first_writes(spec, lambda: files.write_json(spec, tasks))
  fitting = dataclasses.replace(
    _DEFAULTS,
    steps=FLAGS.steps or (_DEFAULTS.steps if FLAGS.seconds is None else 10**9),
    **shared_flags.values(FLAGS, _FITTING),
  )
  settings = solver.further(fitting, str(spec)).replace(
    _changes(FLAGS.settings)
  )
  tests = sum(len(task.tests) for task in found.tasks)

  with contextlib.ExitStack() as stack:

    def train_until(reserve):
      """The notice comes when only so many seconds are left."""
      left = limit.left() - reserve
      stack.enter_context(notice.after(left, limit.reason))
      return left

    def length(compiling, step):
      rows = _VOTES * tests * settings.act.halt_max_steps
      predicting = compiling + rows * step / settings.batch_size
      reserve = min(predicting, _PREDICTING_AT_MOST * limit.left())
      return int(_PLANNED * (train_until(reserve) - compiling) / step)

    timed = FLAGS.seconds is not None
    if timed and (FLAGS.out / 'config.json').exists():
      # It goes on, to the end that it was given.
      begun, _ = workdir_config.read(FLAGS.out)
      settings, timed = settings.of_length(begun.total_steps), False
    if not timed:
      again = FLAGS.seconds is not None
      train_until(_PREDICTING_AGAIN * limit.left() if again else 0.0)
    try:
      state = training_run.train(
        settings, FLAGS.out, notice, length=length if timed else None
      )
    except Preempted as stopped:
      signalled = _signalled(notice, limit)
      logging.info(
        '%s: stopped after step %d%s',
        notice.reason or 'another process was told', stopped.step,
        '; the same command goes on from there' * signalled,
      )  # fmt: skip
      if signalled:
        return False
      if not stopped.step:
        raise ConfigError(
          f'{limit.reason} is too short for a training step; raise it'
        ) from None
    else:
      logging.info('Step %d is saved in %s', int(state.step), FLAGS.out)
  return True


def _first_writes(path: pathlib.Path, write: Callable[[], None]) -> None:
  """Writes in the first process; where that fails, all of them end."""

  def guarded():
    with command.writing(path):
      write()

  processes.from_first(guarded)


def _signalled(notice: preemption.Notice, limit: Limit) -> bool:
  """Whether a process was told to stop, by other than the limit."""
  return processes.any_of(notice.reason not in ('', limit.reason))


def _predict(
  found: TaskSet, answers: Answers, limit: Limit, notice: preemption.Notice
) -> Evaluation | None:
  """Predicts as far as there is time, and writes as votes come in."""
  if notice.reason == limit.reason:
    # Which ended the training, and what was kept for this begins.
    notice.reason = ''
  solver = hrm_jax.load(FLAGS.out)
  asked = solver.ask(found)
  stop = preemption.Agreement(notice, solver.mesh).poll
  evaluation = None
  with notice.after(limit.left(), limit.reason):
    for number, evaluation in enumerate(
      solver.evaluate_in_rounds(asked, stop), 1
    ):
      answers.update(evaluation)
      # When each test has its votes, and before more of them are cast.
      if number == 2 and not stop():
        answers.update(evaluation, solver.reproduced(asked, stop))
  return evaluation


def _changes(entries: list[str]) -> dict[str, Any]:
  """The settings that --settings names, by their names."""
  changes = dict[str, Any]()
  for entry in entries:
    key, separator, value = entry.partition('=')
    if not separator:
      raise ConfigError(
        f'--settings={entry} must be KEY=VALUE, e.g. batch_size=64'
      )
    try:
      changes[key] = json.loads(value)
    except ValueError:
      changes[key] = value
  return changes


if __name__ == '__main__':
  command.run(main, FLAGS, launch.start)
