"""Predicts the held-out puzzles and scores them."""

import contextlib
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import chex
import ml_collections
import numpy as np
from absl import logging
from jax.sharding import Mesh

from data_pipelines.errors import ConfigError
from data_pipelines.leaks import Verdict
from data_pipelines.progress import Progress
from data_pipelines.puzzle_set import EvaluationRows, PuzzleSet
from data_pipelines.scoring import Judge
from hrm_jax import build
from hrm_jax.inference import predict as inference
from hrm_jax.parallel import sharding
from hrm_jax.training import step as train_step
from hrm_jax.workdir import checkpoints


class HeldOut(NamedTuple):
  """A checkpoint, and the held-out puzzles of its run.

  Attributes:
    config: the run's settings, as it has them.
    saved: the run's checkpoints; `restore` closes them.
    step: of the checkpoint.
    position: with the name of each row of the puzzle table.
    setup: of its training, but with the segments that were asked for.
    mesh: of all devices, which share the rows.
    puzzles: the run's.
    chosen: the held-out rows.
    identifiers: row of the puzzle table of each puzzle identifier.
    leaking: what of the answers was trained on.
    batch_size: rows at a time.
  """

  config: ml_collections.ConfigDict
  saved: checkpoints.Checkpoints
  step: int
  position: checkpoints.Position
  setup: train_step.TrainSetup
  mesh: Mesh
  puzzles: PuzzleSet
  chosen: EvaluationRows
  identifiers: np.ndarray
  leaking: Verdict
  batch_size: int

  def restore(self, *others: int) -> tuple[Any, chex.Array, np.ndarray]:
    """Reads the weights, and of the puzzle table what is needed.

    Args:
      *others: puzzle identifiers that are needed beside those of `chosen`.

    Returns:
      Variables of the model, rows of the puzzle table, float32 [R, E], and the
      row there of each puzzle identifier, -1 for those that are not needed.
    """
    wanted = np.append(self.chosen.identifier, np.array(others, int))
    rows, places = needed_rows(wanted, self.identifiers)
    with contextlib.closing(self.saved):
      variables, puzzle_table = self.saved.restore_weights(
        self.step, train_step.abstract_to_predict(self.setup, self.mesh), rows
      )
    return variables, puzzle_table, places


def held_out(
  workdir: pathlib.Path,
  step: int | None = None,
  max_augmentations: int = 0,
  max_puzzles: int = 0,
  batch_size: int | None = None,
  segments: int | None = None,
) -> HeldOut:
  """Finds a checkpoint and what its run holds out; restores nothing yet.

  Args:
    workdir: of the run.
    step: of the checkpoint; None for the newest that is whole.
    max_augmentations: of each task at most, 0 for all.
    max_puzzles: at most so many, spread evenly over the set; 0 for all.
    batch_size: the config's if None.
    segments: at most for each row, the config's if None.

  Raises:
    ConfigError, DataError: there is no such run or checkpoint, or its data
      cannot be used.
  """
  config, fields = build.read_run(workdir)
  asked = config.copy_and_resolve_references()
  # The run's may be for a machine of another kind.
  asked.model.attention = 'auto'
  asked.act.halt_max_steps = segments or config.act.halt_max_steps
  mesh = sharding.make_mesh()
  batch_size = batch_size or config.evaluation.batch_size
  sharding.check_batch_size(mesh, batch_size, '--batch_size')
  saved = checkpoints.Checkpoints(workdir)
  step = saved.find(step)
  position = saved.position(step)
  names = position.identifier_names
  puzzles = build.puzzle_set(config, names)
  chosen = puzzles.evaluation_rows(
    max_augmentations or None, max_puzzles or None
  )
  return HeldOut(
    config=config,
    saved=saved,
    step=step,
    position=position,
    setup=build.train_setup(asked, puzzles, len(names)),
    mesh=mesh,
    puzzles=puzzles,
    chosen=chosen,
    identifiers=match_identifiers(puzzles, chosen, names),
    # Never refused: the scores of what was trained are worth knowing, with it.
    leaking=build.check_leaks(config, puzzles).beside(fields.get('leaks')),
    batch_size=batch_size,
  )


def match_identifiers(
  puzzles: PuzzleSet, chosen: EvaluationRows, saved_names: Sequence[str]
) -> np.ndarray:
  """Row of a checkpoint's puzzle table for each of our puzzle identifiers.

  Matched by name; -1 for what the checkpoint lacks and `chosen` does not need.

  Raises:
    ConfigError: the checkpoint does not know some of the chosen puzzles.
  """
  saved = {name: row for row, name in enumerate(saved_names)}
  names = puzzles.identifier_names()
  rows = np.array([saved.get(name, -1) for name in names], np.int32)
  wanted = np.unique(chosen.identifier)
  missing = wanted[rows[wanted] < 0]
  if len(missing):
    raise ConfigError(
      f'the checkpoint has no embedding of {len(missing)} puzzles, e.g. '
      f"'{names[missing[0]]}'; evaluate with the data that it was trained on"
    )
  return rows


def needed_rows(
  wanted: np.ndarray, identifiers: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """The part of a checkpoint's puzzle table that is needed.

  Args:
    wanted: the puzzle identifiers to predict, each any number of times.
    identifiers: the row of the table of each puzzle identifier.

  Returns:
    These rows of the table, and where each puzzle identifier has its own in a
    table of them alone; -1 for what is not needed.
  """
  wanted = np.unique(wanted)
  places = np.full_like(identifiers, -1)
  places[wanted] = np.arange(len(wanted))
  return identifiers[wanted], places


def evaluate(
  puzzles: PuzzleSet,
  chosen: EvaluationRows,
  identifiers: np.ndarray,
  predict: inference.PredictFunction,
  variables: Any,
  puzzle_table: chex.Array,
  batch_size: int,
  stop: Callable[[], bool] = lambda: False,
) -> Judge | None:
  """Predicts and scores; all processes of a mesh get the result.

  Args:
    puzzles: where they come from.
    chosen: the rows to predict, those of a test input together.
    identifiers: the row of `puzzle_table` of each puzzle identifier.
    predict: of `inference.sharded_predict`.
    variables: of the model.
    puzzle_table: float32 [R, E].
    batch_size: rows at a time, at most.
    stop: asked after each batch, in all processes alike.

  Returns:
    The predictions with their scores; None if it was stopped.
  """

  def read(size, rows):
    for batch in puzzles.evaluation_batches(chosen, size, rows):
      batch['puzzle_identifiers'] = identifiers[batch['puzzle_identifiers']]
      yield batch

  judge = puzzles.judge(chosen)
  progress = Progress('Rows predicted', len(chosen))
  for found in predict(variables, puzzle_table, read, len(chosen), batch_size):
    judge.add(found)
    progress.add(len(found.steps))
    if stop():
      return None
  judge.finish()
  logging.info(
    'Predicted %d in %.1f s, %.2f segments each',
    progress.done, progress.passed, judge.metrics['eval/steps'],
  )  # fmt: skip
  return judge
