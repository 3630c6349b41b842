"""Restores a checkpoint, predicts the held-out test inputs and scores them.

  python -m experiments.evaluate --workdir=DIR [--step=N]

Writes into DIR/evaluation/step_N (with a suffix where --halting or
--max_augmentations ask for less than the run's own evaluation):
submission.json (two attempts, Kaggle's form), predictions.json (ranked
candidates with votes), scores.json and predictions.png.
"""

import contextlib
import dataclasses
import pathlib
from typing import Any

import jax
from absl import flags, logging

from data_pipelines import picture, voting
from data_pipelines.arc_set import ArcSet
from experiments import build, evaluation, launch
from hrm_jax import checkpoints, inference, sharding, train_step
from hrm_jax.errors import ConfigError

_STEP = flags.DEFINE_integer('step', None, 'Checkpoint; the newest if unset.')
_HALTING = flags.DEFINE_enum(
  'halting',
  None,
  inference.HALTING_MODES,
  "Overrides the run's: all segments, or each row until its own halt.",
)
_AUGMENTATIONS = flags.DEFINE_integer(
  'max_augmentations', 0, 'Of each test input, the identity first; 0: all.',
  lower_bound=0,
)  # fmt: skip
_BATCH_SIZE = flags.DEFINE_integer(
  'batch_size', None, "Overrides the run's.", lower_bound=1
)

# Candidates of each test input in predictions.json.
_KEPT = 10


def main(_) -> None:
  run(
    launch.workdir(),
    _STEP.value,
    _HALTING.value,
    _AUGMENTATIONS.value,
    _BATCH_SIZE.value,
  )


def run(
  workdir: pathlib.Path,
  step: int | None = None,
  halting: str | None = None,
  max_augmentations: int = 0,
  batch_size: int | None = None,
) -> evaluation.Result:
  """Evaluates one checkpoint; the arguments are the command's flags.

  Raises:
    ConfigError, DataError: there is no such run or checkpoint, or its data
      cannot be used.
  """
  fields = checkpoints.read_config(workdir)
  if fields is None:
    raise ConfigError(
      f'{workdir}: no config.json; --workdir must name a directory that '
      'experiments.train has written'
    )
  config = build.from_record(fields, workdir / 'config.json')
  mesh = sharding.make_mesh()
  batch_size = batch_size or config.evaluation.batch_size
  sharding.check_batch_size(mesh, batch_size, '--batch_size')
  saved = checkpoints.Checkpoints(workdir)
  step = saved.find(step)
  position = saved.position(step)
  puzzles = build.arc_set(config)
  setup = dataclasses.replace(
    build.train_setup(config, puzzles),
    num_puzzle_identifiers=len(position.identifier_names),
  )
  chosen = puzzles.evaluation_rows(max_augmentations or None)
  if not len(chosen):
    raise ConfigError(
      f'{workdir}: its config.data.evaluate names no tasks: nothing to score'
    )
  identifiers = evaluation.match_identifiers(
    puzzles, chosen, position.identifier_names
  )
  mode = halting or config.evaluation.halting
  predict = inference.sharded_predict(setup.model, setup.act, mode, mesh)
  first = jax.process_index() == 0
  # An evaluation of another kind has a directory of its own.
  directory = workdir / 'evaluation' / f'step_{step}'
  if halting and halting != config.evaluation.halting:
    directory = directory.with_name(f'{directory.name}_{halting}')
  if max_augmentations:
    directory = directory.with_name(
      f'{directory.name}_{max_augmentations}_augmentations'
    )
  if first:
    try:
      directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
      raise ConfigError(
        f'{directory}: cannot be written ({error.strerror})'
      ) from None
  with contextlib.closing(saved):
    variables, puzzle_table = saved.restore_weights(
      step, train_step.abstract_state(setup, mesh)
    )
  if position.data_version != puzzles.version:
    logging.warning(
      'Trained on %s, scored on %s', position.data_version, puzzles.version
    )
  tests = sum(len(task.tests) for task in puzzles.evaluation_tasks)
  logging.info(
    'Predicting %d rows: %d test inputs, augmented', len(chosen), tests
  )
  result = evaluation.evaluate(
    puzzles,
    chosen,
    identifiers,
    predict,
    mesh,
    variables,
    puzzle_table,
    batch_size,
  )
  if first:
    print(report(step, puzzles, result))
    facts = {
      'step': step,
      'data_version': puzzles.version,
      'trained_on': position.data_version,
      'halting': mode,
      'rows': len(chosen),
      'test_inputs': tests,
    }
    write(directory, facts, puzzles, result)
    print(f'Written: {directory}/submission.json, predictions.png and more')
  return result


def report(step: int, puzzles: ArcSet, result: evaluation.Result) -> str:
  """The scores as a person reads them."""
  tasks = puzzles.evaluation_tasks
  rows = result.metrics
  lines = [
    f'\nScores of step {step} on held-out test inputs of {puzzles.version}',
    voting.format_scores(result.scores),
  ]
  copied = voting.copy_baseline(tasks)[1].outputs
  if copied.scored:
    lines += [
      f'Baseline, the input as its own answer: {100 * copied.rate:.2f} % of '
      f'the test outputs ({copied.solved}/{copied.scored})',
      'Single predictions, before voting: '
      f'{100 * rows["eval/exact"]:.2f} % exact, '
      f'{100 * rows["eval/accuracy"]:.2f} % of the cells, '
      f'{rows["eval/steps"]:.1f} segments',
    ]
  return '\n'.join(lines)


def write(
  directory: pathlib.Path,
  facts: dict[str, Any],
  puzzles: ArcSet,
  result: evaluation.Result,
) -> None:
  """Writes the files of one evaluation, each whole or not at all.

  `facts` stand beside the scores: what was evaluated, and how.
  """
  tasks = puzzles.evaluation_tasks
  voting.write_json_atomically(
    directory / 'submission.json', voting.submission(result.candidates, tasks)
  )
  predictions = {
    task.name: [
      [
        candidate._replace(grid=candidate.grid.tolist())._asdict()
        for candidate in result.candidates.get((task.name, test), [])[:_KEPT]
      ]
      for test in range(len(task.tests))
    ]
    for task in tasks
  }
  voting.write_json_atomically(directory / 'predictions.json', predictions)
  voting.write_json_atomically(
    directory / 'scores.json', {**facts, **result.metrics}
  )
  picture.draw_predictions(
    tasks, result.candidates, directory / 'predictions.png'
  )


if __name__ == '__main__':
  launch.run(main)
