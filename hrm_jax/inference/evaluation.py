"""Predicts the held-out puzzles and scores them."""

from collections.abc import Callable, Sequence
from typing import Any

import chex
import numpy as np
from absl import logging

from data_pipelines.errors import ConfigError
from data_pipelines.progress import Progress
from data_pipelines.puzzle_set import EvaluationRows, PuzzleSet
from data_pipelines.puzzles import judge_of
from data_pipelines.scoring import Result
from hrm_jax.inference import predict as inference


def match_identifiers(
  puzzles: PuzzleSet, chosen: EvaluationRows, saved_names: Sequence[str]
) -> np.ndarray:
  """Finds the row of a checkpoint's puzzle table for each puzzle identifier.

  Rows are matched by name; -1 stands for one that the checkpoint lacks and that
  `chosen` does not need.

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
  """Finds the part of a checkpoint's puzzle table that is needed.

  Args:
    wanted: puzzle identifiers to predict, each any number of times.
    identifiers: row of the table of each puzzle identifier.

  Returns:
    The rows of the table that are needed, and the row that each puzzle
    identifier has in a table of these alone; -1 for one that is not needed.
  """
  wanted = np.unique(wanted)
  places = np.full_like(identifiers, -1)
  places[wanted] = np.arange(len(wanted))
  return identifiers[wanted], places


def place(rows: EvaluationRows) -> np.ndarray:
  """The number of each row among those of its test input, from 0; int."""
  changes = (np.diff(rows.group) != 0) | (np.diff(rows.test) != 0)
  first = np.r_[0, np.flatnonzero(changes) + 1]
  length = np.diff(np.r_[first, len(rows)])
  return np.arange(len(rows)) - np.repeat(first, length)


def evaluate(
  puzzles: PuzzleSet,
  chosen: EvaluationRows,
  identifiers: np.ndarray,
  predict: inference.PredictFunction,
  variables: Any,
  puzzle_table: chex.Array,
  batch_size: int,
  stop: Callable[[], bool] = lambda: False,
) -> Result | None:
  """Predicts and scores; all processes of a mesh get the result.

  Args:
    puzzles: set that the rows are of.
    chosen: rows to predict, those of a test input together.
    identifiers: row of `puzzle_table` of each puzzle identifier.
    predict: function that `inference.sharded_predict` made.
    variables: variables of the model.
    puzzle_table: puzzle embeddings, float32 [R, E].
    batch_size: largest number of rows at a time.
    stop: tells whether to stop; asked after each batch, in all processes alike.

  Returns:
    The predictions with their scores; None if it was stopped.
  """

  def read(size, rows):
    for batch in puzzles.evaluation_batches(chosen, size, rows):
      batch['puzzle_identifiers'] = identifiers[batch['puzzle_identifiers']]
      yield batch

  judge = judge_of(puzzles, chosen)
  progress = Progress('Rows predicted', len(chosen))
  for found in predict(variables, puzzle_table, read, len(chosen), batch_size):
    judge.add(found)
    progress.add(len(found.steps))
    if stop():
      return None
  result = judge.result()
  logging.info(
    'Predicted %d in %.1f s, %.2f segments each',
    progress.done, progress.passed, result.metrics['eval/steps'],
  )  # fmt: skip
  return result
