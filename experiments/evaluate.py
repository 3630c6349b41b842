"""Scores a checkpoint on the held-out puzzles of its run.

  hrm-jax evaluate --workdir=DIR [--step=N]

Writes into DIR/evaluation/step_N (with a suffix where the flags ask for another
evaluation than the run's own) scores.json and predictions.png; for ARC also
submission.json (two attempts, Kaggle's form) and predictions.json (ranked
candidates with votes), for Sudoku and Maze predictions.csv.
"""

import dataclasses
import pathlib

import jax
from absl import flags

import hrm_jax.solver
from experiments.cli import command, launch, shared_flags
from experiments.reporting import evaluation_files
from hrm_jax.inference import predict as inference
from hrm_jax.settings import Width
from hrm_jax.solver import Evaluation
from hrm_jax.workdir import checkpoints

_ONCE = Width()
_ARGUMENTS = ('workdir', 'step', *shared_flags.BOUNDS)
FLAGS = shared_flags.define(
  *_ARGUMENTS, *shared_flags.WIDTH, *shared_flags.PROCESSES
)
flags.DEFINE_enum(
  'halting', None, inference.HALTING_MODES, 'Whether all segments are run, '
  'or each row until its own halt, or until its answer stays as it is; as the '
  "run's evaluation.halting says if unset.",
  flag_values=FLAGS,
)  # fmt: skip


def main(_) -> None:
  width = Width(**shared_flags.values(FLAGS, shared_flags.WIDTH))
  run(**shared_flags.values(FLAGS, (*_ARGUMENTS, 'halting')), width=width)


def run(
  workdir: pathlib.Path,
  step: int | None = None,
  halting: str | None = None,
  max_augmentations: int = 0,
  max_puzzles: int = 0,
  batch_size: int | None = None,
  segments: int | None = None,
  width: Width = _ONCE,
) -> Evaluation:
  """Evaluates one checkpoint; the arguments are the command's flags.

  Raises:
    ConfigError, DataError: there is no such run or checkpoint, or its data
      cannot be used.
  """
  solver = hrm_jax.solver.load(workdir, step)
  asked = solver.held_out(max_augmentations, max_puzzles)
  # An evaluation of another kind has a directory of its own.
  name = f'step_{solver.step}'
  if halting and halting != solver.settings.evaluation.halting:
    name += f'_{halting}'
  if segments and segments != solver.settings.act.halt_max_steps:
    name += f'_{segments}_segments'
  if max_augmentations:
    name += f'_{max_augmentations}_augmentations'
  if max_puzzles:
    name += f'_{max_puzzles}_puzzles'
  for field, value in dataclasses.asdict(width).items():
    if value != getattr(_ONCE, field):
      text = '_'.join(value) if field == 'ensemble' else value
      name += f'_{field}_{text}'
  directory = workdir / 'evaluation' / evaluation_files.name_of(name)
  first = jax.process_index() == 0
  if first and len(asked.queries[0].rows):
    with command.writing(directory / 'scores.json'):
      pass  # Better known before the work.
  found = solver.evaluate(
    asked,
    halting=halting,
    segments=segments,
    batch_size=batch_size,
    width=width,
  )
  if first:
    command.say(
      f'\nScores of step {solver.step}; data: {solver.puzzles.version}'
    )
    command.say(found.report() + found.leaks.note())
    if solver.trained_on.startswith(checkpoints.UNKNOWN_DATA):
      print('What it was trained on is not known here: answers may have leaked')
    names = evaluation_files.write(found, directory)
    command.say(f'Written to {directory}: {", ".join(names)}')
  return found


if __name__ == '__main__':
  command.run(main, FLAGS, launch.start)
