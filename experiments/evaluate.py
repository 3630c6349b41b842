"""Restores a checkpoint, predicts the held-out puzzles and scores them.

  python -m experiments.evaluate --workdir=DIR [--step=N]

Writes into DIR/evaluation/step_N (with a suffix where the flags ask for another
evaluation than the run's own) scores.json and predictions.png; for ARC also
submission.json (two attempts, Kaggle's form) and predictions.json (ranked
candidates with votes), for Sudoku and Maze predictions.csv.
"""

import pathlib

import jax
from absl import flags, logging

from data_pipelines.errors import ConfigError
from data_pipelines.scoring import Judge
from experiments.cli import evaluation_flags, launch
from hrm_jax.inference import evaluation
from hrm_jax.inference import predict as inference
from hrm_jax.workdir import checkpoints

_HALTING = flags.DEFINE_enum(
  'halting',
  None,
  inference.HALTING_MODES,
  "Overrides the run's: all segments, or each row until its own halt.",
)


def main(_) -> None:
  run(
    launch.workdir(),
    launch.STEP.value,
    _HALTING.value,
    evaluation_flags.MAX_AUGMENTATIONS.value,
    evaluation_flags.MAX_PUZZLES.value,
    evaluation_flags.BATCH_SIZE.value,
    evaluation_flags.SEGMENTS.value,
  )


def run(
  workdir: pathlib.Path,
  step: int | None = None,
  halting: str | None = None,
  max_augmentations: int = 0,
  max_puzzles: int = 0,
  batch_size: int | None = None,
  segments: int | None = None,
) -> Judge:
  """Evaluates one checkpoint; the arguments are the command's flags.

  Raises:
    ConfigError, DataError: there is no such run or checkpoint, or its data
      cannot be used.
  """
  found = evaluation.held_out(
    workdir, step, max_augmentations, max_puzzles, batch_size, segments
  )
  config = found.config
  other_segments = segments not in (None, config.act.halt_max_steps)
  setup, puzzles, chosen = found.setup, found.puzzles, found.chosen
  if not len(chosen):
    raise ConfigError(
      f'{workdir}: its config.data.evaluate names no puzzles: nothing to score'
    )
  mode = halting or config.evaluation.halting
  predict = inference.sharded_predict(setup.model, setup.act, mode, found.mesh)
  first = jax.process_index() == 0
  # An evaluation of another kind has a directory of its own.
  directory = workdir / 'evaluation' / f'step_{found.step}'
  if halting and halting != config.evaluation.halting:
    directory = directory.with_name(f'{directory.name}_{halting}')
  for limit, things in (
    (other_segments and segments, 'segments'),
    (max_augmentations, 'augmentations'),
    (max_puzzles, 'puzzles'),
  ):
    if limit:
      directory = directory.with_name(f'{directory.name}_{limit}_{things}')
  if first:
    try:
      directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
      raise ConfigError(
        f'{directory}: cannot be written ({error.strerror})'
      ) from None
  variables, puzzle_table, identifiers = found.restore()
  trained_on = found.position.data_version
  if trained_on != puzzles.version:
    logging.warning('Trained on %s, scored on %s', trained_on, puzzles.version)
  logging.info(
    'Predicting %d held-out inputs, augmentations included', len(chosen)
  )
  judge = evaluation.evaluate(
    puzzles,
    chosen,
    identifiers,
    predict,
    variables,
    puzzle_table,
    found.batch_size,
  )
  if first:
    print(f'\nScores of step {found.step}; data: {puzzles.version}')
    print(judge.report() + found.leaking.note())
    if trained_on.startswith(checkpoints.UNKNOWN_DATA):
      print('What it was trained on is not known here: answers may have leaked')
    facts = {
      'step': found.step,
      'data_version': puzzles.version,
      'trained_on': trained_on,
      'halting': mode,
      'segments': setup.act.halt_max_steps,
      'rows': len(chosen),
      'leaks': found.leaking.record(),
    }
    judge.write(directory, facts)
    print(f'Written: {directory}/scores.json, predictions.png and more')
  return judge


if __name__ == '__main__':
  launch.run(main)
