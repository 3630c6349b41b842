"""Solves each task of ARC by a network trained on it alone.

  hrm-jax compress --task=SPEC --out=DIR [--steps=N] [--seconds=S] [--seed=N]

This is CompressARC (Liao & Gu, arXiv 2512.06104): a network of 76,000 weights
is trained on one task alone, its test inputs too, and read meanwhile. Tasks of
similar sizes are trained together. The same command goes on with what DIR has.

Writes into DIR what `experiments.predict` writes for tasks of ARC, and pictures
of a task's KL and answers over the steps, course_*. Of each task scores.json
also has the nats that its 18 tensors tell. While this works, submission.json
has the guesses so far.
"""

import contextlib
import dataclasses
import itertools
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from absl import flags, logging

from data_pipelines import files
from data_pipelines.arc import voting
from data_pipelines.arc.scoring import score_metrics
from data_pipelines.arc.tasks import TaskSet
from data_pipelines.drawing.styles import PALETTE
from data_pipelines.files import shown
from experiments import predict
from experiments.cli import command, launch, shared_flags
from experiments.reporting import charts, evaluation_files
from hrm_jax.compressarc import multitensor, solving
from hrm_jax.compressarc.solving import Found, Plan
from hrm_jax.parallel import processes
from hrm_jax.solver import Answer
from hrm_jax.workdir import lock

# Tasks that the log tells of at a time at most, and answers of a course.
_MAX_TOLD, _ANSWERS = 8, 8

FLAGS = shared_flags.define('task', 'seed', 'color', *shared_flags.PROCESSES)
shared_flags.require(FLAGS, 'task', 'my_task.json')
shared_flags.path(
  'out',
  None,
  'Directory that gets the answers and the work.',
  FLAGS,
  files.place,
)
shared_flags.require(FLAGS, 'out', 'compressed')
flags.DEFINE_integer(
  'steps', Plan.num_steps, 'Number of training steps for each task.',
  lower_bound=1, flag_values=FLAGS,
)  # fmt: skip
flags.DEFINE_float(
  'seconds', None, 'Greatest time in seconds, for all tasks together; '
  'unlimited if unset.', lower_bound=0, flag_values=FLAGS,
)  # fmt: skip
flags.DEFINE_integer(
  'batch_size', None, 'Greatest number of tasks that are trained at a time; if '
  'unset as many as memory holds, on CPUs one for each device.', lower_bound=1,
  flag_values=FLAGS,
)  # fmt: skip
flags.DEFINE_integer(
  'patience', None, 'Number of steps after which a task whose first guess has '
  'not changed ends, and another one takes its place; if unset none does.',
  lower_bound=1, flag_values=FLAGS,
)  # fmt: skip


def main(_) -> None:
  colour = command.coloured(FLAGS.color)
  plan = Plan(
    num_steps=FLAGS.steps, seed=FLAGS.seed, batch_size=FLAGS.batch_size,
    patience=FLAGS.patience,
  )  # fmt: skip
  run(FLAGS.task, FLAGS.out, plan, FLAGS.seconds, colour)


def run(
  spec: str,
  out: pathlib.Path,
  plan: Plan | None = None,
  seconds: float | None = None,
  colour: bool = False,
) -> list[Found]:
  """Solves tasks and writes; the arguments are the command's flags.

  Raises:
    ConfigError, DataError: the tasks cannot be used, or `out` has other work.
  """
  given, _ = solving.read(spec)
  with contextlib.ExitStack() as stack:

    def claim():
      stack.enter_context(lock.hold(out))

    processes.from_first(claim)
    return _run(given, out, plan or Plan(), seconds, colour)


def _run(
  given: TaskSet, out: pathlib.Path, plan: Plan, seconds: float | None,
  colour: bool,
) -> list[Found]:  # fmt: skip
  began, candidates = time.monotonic(), dict[tuple[str, int], Any]()
  first = jax.process_index() == 0

  def tell(found: Sequence[Found], logged: bool) -> None:
    answers = [one.answer() for one in found]
    for one, answer in zip(found, answers, strict=True):
      for test, ranked in enumerate(answer.attempts):
        candidates[one.task.name, test] = ranked
    # Whole at any moment, whatever ends the work.
    with command.writing(out / 'submission.json'):
      if any(candidates.values()):
        evaluation_files.write_submission(out, candidates, given.tasks)
      else:
        evaluation_files.promise(given.tasks, out)
    if logged:
      pairs = zip(found, answers, strict=True)
      at_work = (x for x in pairs if x[0].steps and not x[0].ended(plan))
      for pair in itertools.islice(at_work, _MAX_TOLD):
        logging.info('%s', _thought(*pair))

  # Only the first one writes: the others need not read what it tells of.
  found = solving.solve(
    given, plan, seconds, out / 'work', tell if first else None
  )
  if not first:
    return found
  scores = voting.score(candidates, given.tasks)
  facts = _facts(found, given, plan, time.monotonic() - began)
  if scores[1].outputs.scored:
    facts |= score_metrics(scores)
  names = evaluation_files.write_votes(
    out, given.tasks, candidates, facts, given.tasks
  )
  drawn = [one for one in found if one.course][: predict.MAX_SHOWN]
  titles = evaluation_files.distinct_names(one.task.name for one in drawn)
  for one, title in zip(drawn, titles, strict=True):
    names.append(f'course_{title}.png')
    _draw_course(one, out / names[-1])
  predict.show(
    predict.tell_task(answer, test, colour)
    for answer in (one.answer() for one in found)
    for test in range(len(answer.inputs))
  )
  print(voting.format_scores(scores))
  command.say(f'Written to {out}: {", ".join(names)}')
  return found


def _facts(
  found: Sequence[Found], given: TaskSet, plan: Plan, seconds: float
) -> dict[str, Any]:
  """What scores.json has beside the scores."""
  return {
    'puzzles': given.version,
    'way': solving.WAY,
    'seconds': seconds,
    **dataclasses.asdict(plan),
    'tasks': {
      one.task.name: {
        'steps': one.steps, 'error': one.error, 'kl': one.kl,
        'first_guess_since': one.since,
      }
      for one in found
    },
  }  # fmt: skip


def _thought(one: Found, answer: Answer) -> str:
  """How far a task is, and what the network thinks of it, for the log."""
  sizes = ', '.join(
    ' × '.join(map(str, best[0].grid.shape)) for best in answer.attempts
  )
  return (
    f'  {shown(one.task.name)}, step {one.steps}: {sum(one.kl.values()):,.0f} '
    f'nats of KL, error {one.error:,.1f}; thinks of {sizes}, the same since '
    f'step {one.since}'
  )


def _draw_course(one: Found, path: pathlib.Path) -> None:
  """Draws the KL of each tensor, and the answer to the first test input."""
  drawn = charts.figure(10, 6)
  curves, below = drawn.subfigures(2, 1, height_ratios=(3, 1))
  axes = curves.subplots()
  steps = [then.steps for then in one.course]
  rows = list(zip(*(then.kl for then in one.course), strict=True))
  # Those that tell most at the end come first.
  order = sorted(range(len(rows)), key=lambda i: -rows[i][-1])
  letters = [*multitensor.tensors()]
  for place, i in enumerate(order):
    colour = charts.LINES[place] if place < len(charts.LINES) else charts.QUOTED
    axes.plot(steps, rows[i], color=colour, label=letters[i], zorder=-place)
  errors = [then.error for then in one.course]
  axes.plot(steps, errors, 'k--', label='reconstruction error')
  axes.set(xlabel='step', ylabel='nats', yscale='log')
  axes.set_title(shown(one.task.name), parse_math=False)
  axes.legend(ncols=2, fontsize='small', loc='upper right')
  some = np.linspace(0, len(steps) - 1, min(_ANSWERS, len(steps)))
  grids = [*one.ranking.scores]
  colours = np.array([[*bytes.fromhex(x[1:])] for x in PALETTE], np.uint8)
  panels = below.subplots(1, len(some), squeeze=False)[0]
  for panel, then in zip(
    panels, (one.course[i] for i in some.astype(int)), strict=True
  ):
    panel.imshow(colours[np.array(grids[then.answer][0])])
    panel.set(xticks=(), yticks=(), xlabel=f'step {then.steps}')
  charts.save(drawn, path)


if __name__ == '__main__':
  command.run(main, FLAGS, launch.start)
