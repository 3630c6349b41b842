"""Predicts the held-out puzzles and scores them."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import chex
import numpy as np
from absl import logging

from data_pipelines import sampler
from data_pipelines.arc.scoring import VoteJudge, VoteResult
from data_pipelines.arc.voting import Ballots
from data_pipelines.errors import ConfigError
from data_pipelines.progress import Progress
from data_pipelines.puzzle_set import EvaluationRows, PuzzleSet
from data_pipelines.puzzles import Result, judge_of
from data_pipelines.scoring import Judge
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


def exact(
  query: Query,
  predict: inference.PredictFunction,
  batch_size: int,
  stop: Callable[[], bool],
) -> np.ndarray:
  """Whether each row is answered right, bool; see `evaluate`."""
  found = _predictions(query, predict, batch_size, stop)
  return np.concatenate([part.exact for part in found])


def _predictions(
  query: Query,
  predict: inference.PredictFunction,
  batch_size: int,
  stop: Callable[[], bool],
  progress: Progress | None = None,
) -> Iterator[inference.Predictions]:
  """Predictions in the order of the rows, some at a time; or `Stopped`."""

  def read(size, rows):
    for batch in query.puzzles.evaluation_batches(query.rows, size, rows):
      own = query.identifiers[batch['puzzle_identifiers']]
      yield {**batch, 'puzzle_identifiers': own}

  weights = query.variables, query.puzzle_table
  for found in predict(*weights, read, len(query.rows), batch_size):
    if progress:
      progress.add(len(found.steps))
    yield found
    if stop():
      raise Stopped


def evaluate(
  query: Query,
  predict: inference.PredictFunction,
  batch_size: int,
  stop: Callable[[], bool] = lambda: False,
  others: Sequence[tuple[Query, inference.PredictFunction]] = (),
  judge: Judge | None = None,
) -> Result:
  """Predicts and scores; all processes of a mesh get the result.

  Args:
    query: what to predict.
    predict: function that `inference.sharded_predict` made.
    batch_size: largest number of rows at a time.
    stop: tells whether to stop; asked after each batch, in all processes alike.
    others: queries and functions of other checkpoints of an ensemble; rows of
      `query` are predicted by each of all in turn.
    judge: who scores; None for one of its own.

  Raises:
    Stopped: `stop` said so.
  """
  puzzles, chosen = query.puzzles, query.rows
  judge = judge or judge_of(puzzles, chosen, query.choose)
  progress = Progress('Rows predicted', len(chosen))

  def predictions(query, predict):
    return _predictions(query, predict, batch_size, stop, progress)

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
  result: Any = judge.result()
  logging.info(
    'Predicted %d in %.1f s, %.2f segments each',
    progress.done, progress.passed, result.metrics['eval/steps'],
  )  # fmt: skip
  return result


# Rows at a time of a few test inputs, in rounds.
_FEWEST = 32
# Votes of a test input after each round; from the third on if they disagree.
ROUNDS = (1, 8, 32, 128, 512)


def in_rounds(
  query: Query,
  predict: inference.PredictFunction,
  batch_size: int,
  stop: Callable[[], bool],
) -> Iterator[VoteResult]:
  """Predicts ARC tasks: some votes for each test input, then more for some.

  The latter are those whose votes disagree, see `ROUNDS`. Yields what is known
  after each round; where `stop` says so, after a part of one, the last.
  """
  place, judge = query.rows.place(), None
  tests = [
    (query.puzzles.name_of(group), test)
    for group, test in zip(query.rows.group, query.rows.test, strict=True)
  ]
  # All rounds with as many rows at a time: they are compiled once.
  count = int(np.count_nonzero(place == 0))
  batch_size = min(batch_size, max(count, _FEWEST))
  for begin, end in itertools.pairwise((0, *ROUNDS, len(place))):
    chosen = (begin <= place) & (place < end)
    # One vote agrees with itself: all get those of the second round.
    if judge and begin != ROUNDS[0]:
      undecided = judge.undecided()
      chosen &= [test in undecided for test in tests]
    rows = query.rows.take(np.flatnonzero(chosen))
    if not len(rows):
      return
    ballots = query.puzzles.held_out(rows)
    assert isinstance(ballots, Ballots)
    judge = VoteJudge(ballots, judge)
    part = dataclasses.replace(query, rows=rows)
    try:
      evaluate(part, predict, batch_size, stop, judge=judge)
    except Stopped:
      yield judge.result()
      return
    yield judge.result()
