"""Measures the gain by rows fitted to tasks that were held out whole.

  python -m experiments.benchmarks.adaptation --split=DIR
  hrm-jax train --config=experiments/configs/arc2.py:demo
      --config.data.evaluate=DIR/trained --config.data.canvas=6
      --config.data.allow_leaks=True --workdir=RUN
  python -m experiments.benchmarks.adaptation --workdir=RUN
      --task=DIR/held_out [--adapt=rows|all] [--steps=N] [--seconds=S]
      [--num_aug=N] [--seed=N]

The first command writes the ARC-AGI-2 *training* tasks that fit 6 × 6, twenty
of them apart from all others. The second trains a model of the demo's size on
the others. The third predicts the twenty one by one, with the blank row and
with fitted ones, and prints the gain of each task.
"""

import dataclasses
import datetime
import hashlib
import pathlib
import time

import numpy as np
from absl import logging

import hrm_jax.solver
from data_pipelines import files
from data_pipelines.arc import tasks as arc
from data_pipelines.errors import ConfigError
from experiments.cli import command, launch, shared_flags
from hrm_jax.solver import Fitting, Solver

_CANVAS, _HELD_OUT = 6, 20
# The defaults of fitting were chosen on these tasks.
TUNED_ON = (
  '4cd1b7b2', '66e6c45b', '6ea4a07e', '833966f4', '87ab05b8', 'be03b35f',
  'ca8de6ea', 'e3fe1151', 'e633a9e5',
)  # fmt: skip

# The metrics of a task that are compared, by their names in the table.
_MEASURES = {
  'cells': 'eval/accuracy',
  'exact': 'eval/exact',
  'pass@1': 'eval/pass@1/outputs',
  'pass@2': 'eval/pass@2/outputs',
}

FLAGS = shared_flags.define(
  'task', 'step', *shared_flags.JAX, workdir=None,
  **dataclasses.asdict(Fitting()),
)  # fmt: skip
shared_flags.path('split', None, 'Directory to write the tasks to.', FLAGS)


def split(directory: pathlib.Path) -> None:
  """Writes a file for each task into `trained` or `held_out`.

  The names alone decide which tasks are held out.
  """
  tasks = [
    task for task in arc.load_tasks('arc2:training').tasks if task.fits(_CANVAS)
  ]
  free = [task.name for task in tasks if task.name not in TUNED_ON]
  free.sort(key=lambda name: hashlib.sha256(name.encode()).hexdigest())
  for name in ('trained', 'held_out'):
    (directory / name).mkdir(parents=True, exist_ok=True)
  for task in tasks:
    part = 'held_out' if task.name in free[:_HELD_OUT] else 'trained'
    pairs = {
      kind: [
        {'input': pair.input.tolist(), 'output': pair.output.tolist()}
        for pair in some
      ]
      for kind, some in (('train', task.demonstrations), ('test', task.tests))
    }
    files.write_json(directory / part / f'{task.name}.json', pairs)


def measure(
  solver: Solver, tasks: arc.TaskSet, fitting: Fitting
) -> tuple[dict[str, np.ndarray], list[float]]:
  """Scores each task and measures its time.

  Returns:
    By name of the metric an array [tasks] of means over the test inputs
    (cells and exact are means over augmentations too), and the seconds that
    each task took.
  """
  scores, seconds = [], []
  begin = time.monotonic()
  for number, task in enumerate(tasks.tasks, 1):
    start = time.monotonic()
    metrics = solver.evaluate(task, fitting).metrics
    seconds.append(time.monotonic() - start)
    scores.append([metrics[key] for key in _MEASURES.values()])
    left = (time.monotonic() - begin) / number * (len(tasks.tasks) - number)
    logging.info(
      '%s, %s: %d of %d tasks, %.1f %% of the cells, %s left',
      fitting.adapt, task.name, number, len(tasks.tasks),
      100 * metrics['eval/accuracy'],
      datetime.timedelta(seconds=round(left)),
    )  # fmt: skip
  columns = np.array(scores).T
  return dict(zip(_MEASURES, columns, strict=True)), seconds


def main(_) -> None:
  if FLAGS.split:
    split(FLAGS.split)
    print(f'Written: {FLAGS.split}/trained and {FLAGS.split}/held_out')
    return
  if not (FLAGS.workdir and FLAGS.task):
    raise ConfigError('name --split=DIR, or --workdir=RUN and --task=SPEC')
  fitting = Fitting(**shared_flags.values(FLAGS, shared_flags.FITTING))
  if fitting.adapt == 'none':
    raise ConfigError('--adapt=none is what rows and all are compared with')
  solver = hrm_jax.solver.load(FLAGS.workdir, FLAGS.step)
  tasks = solver.read(FLAGS.task).puzzles
  without, _ = measure(
    solver, tasks, dataclasses.replace(fitting, adapt='none')
  )
  found, seconds = measure(solver, tasks, fitting)
  print(f'\n{"task":10} {"cells without":>14} {"cells fitted":>13}')
  for task, a, b in zip(
    tasks.tasks, without['cells'], found['cells'], strict=True
  ):
    print(f'{task.name:10} {100 * a:12.1f} % {100 * b:11.1f} %')
  print(f'\n{fitting}')
  count = len(tasks.tasks)
  print(
    f'{count} tasks, at most {max(seconds):.0f} s each, prediction included'
  )
  print('mean over tasks ± its standard error; gain: of the differences')
  for name in _MEASURES:
    gain = found[name] - without[name]
    texts = (
      f'{100 * x.mean():6.1f} ± {100 * x.std(ddof=1) / count**0.5:.1f} %'
      for x in (without[name], found[name], gain)
    )
    print(
      '{:7} without {}, fitted {}, gain {}'.format(name, *texts)
      + f', better on {np.count_nonzero(gain > 0)}, worse on '
      f'{np.count_nonzero(gain < 0)}'
    )


if __name__ == '__main__':
  command.run(main, FLAGS, launch.start)
