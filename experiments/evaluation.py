"""Predicts the held-out puzzles and scores them."""

import datetime
import time
from collections.abc import Callable, Sequence
from typing import Any

import chex
import numpy as np
from absl import logging

from data_pipelines.judging import Judge
from data_pipelines.puzzle_set import EvaluationRows, PuzzleSet
from hrm_jax import inference
from hrm_jax.errors import ConfigError

# Seconds between two lines of progress.
_PROGRESS_SECONDS = 20.0


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
  chosen: EvaluationRows, identifiers: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """The part of a checkpoint's puzzle table that is needed.

  Args:
    chosen: the rows to predict.
    identifiers: the row of the table of each puzzle identifier.

  Returns:
    These rows of the table, and where each puzzle identifier has its own in a
    table of them alone; -1 for what is not needed.
  """
  wanted = np.unique(chosen.identifier)
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
  begin = shown = time.monotonic()
  done = 0
  for found in predict(variables, puzzle_table, read, len(chosen), batch_size):
    judge.add(found)
    done += len(found.steps)
    if stop():
      return None
    now = time.monotonic()
    if now - shown > _PROGRESS_SECONDS:
      shown = now
      left = (now - begin) / done * (len(chosen) - done)
      logging.info(
        'Predicted %d of %d, %s left',
        done, len(chosen), datetime.timedelta(seconds=round(left)),
      )  # fmt: skip
  judge.finish()
  logging.info(
    'Predicted %d in %.1f s, %.2f segments each',
    done, time.monotonic() - begin, judge.metrics['eval/steps'],
  )  # fmt: skip
  return judge
