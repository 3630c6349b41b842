"""Predicts the held-out puzzles and scores them."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import chex
import numpy as np
from absl import logging

from data_pipelines import sampler
from data_pipelines.errors import ConfigError
from data_pipelines.progress import Progress
from data_pipelines.puzzle_set import EvaluationRows, PuzzleSet
from data_pipelines.puzzles import Result, judge_of
from hrm_jax.inference import predict as inference


def rows_of(names: Sequence[str], saved_names: Sequence[str]) -> np.ndarray:
  """Finds by name a checkpoint's row for each, int32; -1 for none."""
  saved = {name: row for row, name in enumerate(saved_names)}
  return np.array([saved.get(name, -1) for name in names], np.int32)


def match_identifiers(
  puzzles: PuzzleSet, chosen: EvaluationRows, saved_names: Sequence[str]
) -> np.ndarray:
  """Finds by name a checkpoint's row for each puzzle identifier; -1 for none.

  Raises:
    ConfigError: the checkpoint does not know some of the chosen puzzles.
  """
  names = puzzles.identifier_names()
  rows = rows_of(names, saved_names)
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
  """Finds the part of a puzzle table that the `wanted` identifiers need.

  Returns:
    The rows of the table that are needed, and the row that each puzzle
    identifier has in a table of these alone; -1 for one that is not needed.
  """
  wanted = np.unique(wanted)
  places = np.full_like(identifiers, -1)
  places[wanted] = np.arange(len(wanted))
  return identifiers[wanted], places


@dataclasses.dataclass(frozen=True, eq=False)
class Query:
  """Rows to predict, and the weights that predict them.

  Attributes:
    puzzles: set that the rows are of.
    rows: rows to predict, those of a test input together.
    identifiers: row of `puzzle_table` of each puzzle identifier of the set,
      int32; -1 where none is needed.
    variables: variables of the model.
    puzzle_table: puzzle embeddings, float32 [R, E].
    way: which rows of the table these are, in words.
    choose: which of a puzzle's predictions is its answer, see
      `settings.Width`.
  """

  puzzles: PuzzleSet
  rows: EvaluationRows
  identifiers: np.ndarray
  variables: Any
  puzzle_table: chex.Array
  way: str = ''
  choose: str = 'vote'

  def originals(self, max_puzzles: int | None = None) -> EvaluationRows:
    """Unaugmented rows of at most so many puzzles, spread evenly."""
    rows = self.rows.take(np.flatnonzero(self.rows.place() == 0))
    groups = np.unique(rows.group)
    groups = groups[sampler.spread(len(groups), max_puzzles)]
    return rows.take(np.flatnonzero(np.isin(rows.group, groups)))


def metric_names(puzzles: PuzzleSet, rows: EvaluationRows) -> set[str]:
  """Names of the metrics that an evaluation of these rows gives."""
  # A row of each of the first puzzles, as if something had been predicted.
  first = np.unique(rows.group, return_index=True)[1][:1000]
  judge, n = judge_of(puzzles, rows.take(first)), len(first)
  nothing, known = np.zeros(n, np.float32), np.zeros(n, bool)
  tokens = np.zeros((n, puzzles.seq_len), np.uint8)
  judge.add(inference.Predictions(tokens, nothing, nothing, known, nothing))
  return set(judge.result().metrics)


class Stopped(Exception):
  """An evaluation was asked to stop, and has no result."""


def evaluate(
  query: Query,
  predict: inference.PredictFunction,
  batch_size: int,
  stop: Callable[[], bool] = lambda: False,
  others: Sequence[tuple[Query, inference.PredictFunction]] = (),
) -> Result:
  """Predicts and scores; all processes of a mesh get the result.

  Args:
    query: what to predict.
    predict: function that `inference.sharded_predict` made.
    batch_size: largest number of rows at a time.
    stop: tells whether to stop; asked after each batch, in all processes alike.
    others: queries and functions of other checkpoints of an ensemble; rows of
      `query` are predicted by each of all in turn.

  Raises:
    Stopped: `stop` said so.
  """
  puzzles, chosen = query.puzzles, query.rows
  judge = judge_of(puzzles, chosen, query.choose)
  progress = Progress('Rows predicted', len(chosen))

  def predictions(query, predict):
    def read(size, rows):
      for batch in puzzles.evaluation_batches(query.rows, size, rows):
        own = query.identifiers[batch['puzzle_identifiers']]
        yield {**batch, 'puzzle_identifiers': own}

    weights = query.variables, query.puzzle_table
    for found in predict(*weights, read, len(query.rows), batch_size):
      progress.add(len(found.steps))
      yield found
      if stop():
        raise Stopped

  if others:
    own = chosen.take(np.arange(0, len(chosen), 1 + len(others)))
    each = [
      [np.concatenate(part) for part in zip(*predictions(*one), strict=True)]
      for one in ((dataclasses.replace(query, rows=own), predict), *others)
    ]
    turns = (np.stack(parts, axis=1) for parts in zip(*each, strict=True))
    judge.add(
      inference.Predictions(*(x.reshape(-1, *x.shape[2:]) for x in turns))
    )
  else:
    for found in predictions(query, predict):
      judge.add(found)
  result = judge.result()
  logging.info(
    'Predicted %d in %.1f s, %.2f segments each',
    progress.done, progress.passed, result.metrics['eval/steps'],
  )  # fmt: skip
  return result
