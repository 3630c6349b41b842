"""Trains a small HRM on ARC tasks in minutes, and scores it.

  hrm-jax demo [--workdir=DIR] [--config.KEY=VALUE ...]

This is `hrm-jax train --config=arc1:demo`, which needs two CPU cores and no
accelerator, and then `hrm-jax evaluate`. Started again, it goes on.
"""

import pathlib
import sys

from experiments import evaluate, train
from experiments.cli import command, launch, shared_flags
from hrm_jax.settings import Settings

FLAGS = shared_flags.define(
  'config', *shared_flags.JAX, workdir=pathlib.Path('runs/demo')
)

_NEXT = """
Look at {pictures}: questions, answers, truth.

Next, in the shell:
  {report} --workdir={workdir}
      writes the scores, curves and puzzles into one page for a browser
  {predict} --workdir={workdir} --task=my_task.json --trace
      solves an ARC task of your own, and draws how the answer forms
  {train} --help
      says how to train on other puzzles and with other settings

Next, in Python:
  import hrm_jax
  solver = hrm_jax.load('{workdir}')
  answer = solver.solve('my_task.json')
  print(answer.grids[0])
  print(answer.votes, answer.confidence)
  solver.trace('my_task.json').save('thought.gif')
"""


def main(_) -> int | None:
  workdir = FLAGS.workdir
  if code := train.to_end(Settings.from_config(FLAGS.config), workdir):
    return code
  evaluate.run(workdir)
  pictures = (workdir / 'evaluation').glob('step_*/predictions.png')
  newest = max(pictures, key=lambda path: path.stat().st_mtime)
  commands = {
    name: command.typed(f'experiments.{name}')
    for name in ('report', 'predict', 'train')
  }
  print(_NEXT.format(workdir=workdir, pictures=newest, **commands))
  return None


if __name__ == '__main__':
  if not any(word.startswith('--config=') for word in sys.argv):
    sys.argv.insert(1, '--config=arc1:demo')
  command.run(main, FLAGS, launch.start)
