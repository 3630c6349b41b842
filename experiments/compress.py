"""Solves each task of ARC by a network trained on it alone.

  hrm-jax compress --task=SPEC --out=DIR [--steps=N] [--seconds=S] [--seed=N]

This is CompressARC (Liao & Gu, arXiv 2512.06104): a network of 76,000 weights
is trained on one task alone, its test inputs too, and read meanwhile. Tasks of
similar sizes are trained together. The same command goes on with what DIR has.

Writes into DIR what `experiments.predict` writes for tasks of ARC; scores.json
also has the nats that each of a task's 18 tensors tells.
"""

import dataclasses
import pathlib
import time
from collections.abc import Sequence
from typing import Any

from absl import flags, logging

from data_pipelines import files
from data_pipelines.arc import voting
from data_pipelines.arc.scoring import score_metrics
from data_pipelines.arc.tasks import TaskSet
from data_pipelines.files import shown
from experiments import predict
from experiments.cli import command, launch, shared_flags
from experiments.reporting import evaluation_files
from hrm_jax.compressarc import solving
from hrm_jax.compressarc.solving import Found, Plan

# Seconds between two lines of progress, and tasks that they tell of at most.
_TELL_EVERY, _MAX_TOLD = 10.0, 8

FLAGS = shared_flags.define('task', 'seed', 'color', *shared_flags.JAX)
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
  'batch_size', None, 'Greatest number of tasks that are trained at a time, as '
  'many as memory holds if unset.', lower_bound=1, flag_values=FLAGS,
)  # fmt: skip


def main(_) -> None:
  colour = command.coloured(FLAGS.color)
  plan = Plan(
    num_steps=FLAGS.steps, seed=FLAGS.seed, batch_size=FLAGS.batch_size
  )
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
  plan, began = plan or Plan(), time.monotonic()
  given, _ = solving.read(spec)
  with command.writing(out / 'submission.json'):
    # Whole from now on, whatever ends the work.
    evaluation_files.promise(given.tasks, out)
  found = solving.solve(given, plan, seconds, out / 'work', _Progress())
  candidates = {
    (one.task.name, test): ranked
    for one in found
    for test, ranked in enumerate(one.answer().attempts)
  }
  scores = voting.score(candidates, given.tasks)
  facts = _facts(found, given, plan, time.monotonic() - began)
  if scores[1].outputs.scored:
    facts |= score_metrics(scores)
  names = evaluation_files.write_votes(
    out, given.tasks, candidates, facts, given.tasks
  )
  print()
  texts = [
    predict.tell_task(answer, test, colour)
    for answer in (one.answer() for one in found[: predict.MAX_SHOWN])
    for test in range(len(answer.inputs))
  ]
  for text in texts[: predict.MAX_SHOWN]:
    print(text + '\n')
  if len(texts) > predict.MAX_SHOWN or len(found) > predict.MAX_SHOWN:
    print('... more stand in the files')
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


class _Progress:
  """Tells now and then how far the tasks are, and what they think."""

  def __init__(self):
    self._told = -_TELL_EVERY

  def __call__(self, found: Sequence[Found], left: float, whole: float) -> None:
    if time.monotonic() - self._told < _TELL_EVERY:
      return
    self._told = time.monotonic()
    steps = found[0].steps
    logging.info(
      '%s',
      f'Step {steps}: {_duration(left)} left for the {len(found)} at work, '
      f'{_duration(whole)} for all',
    )
    for one in found[:_MAX_TOLD]:
      sizes = ', '.join(
        ' × '.join(map(str, best[0].grid.shape))
        for best in one.answer().attempts
      )
      logging.info(
        '%s',
        f'  {shown(one.task.name)}: {sum(one.kl.values()):,.0f} nats of KL, '
        f'error {one.error:,.1f}; thinks of {sizes}, the same since step '
        f'{one.since}',
      )


def _duration(seconds: float) -> str:
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  if hours:
    return f'{hours} h {minutes:02} min'
  return f'{minutes} min {seconds:02} s' if minutes else f'{seconds} s'


if __name__ == '__main__':
  command.run(main, FLAGS, launch.start)
