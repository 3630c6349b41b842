"""Predicts every augmentation of the held-out test inputs, and scores them."""

import datetime
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import chex
import jax
import numpy as np
from absl import logging
from jax.sharding import Mesh

from data_pipelines import encoding, voting
from data_pipelines.arc_set import ArcSet, EvaluationRows
from hrm_jax import inference, sharding
from hrm_jax.errors import ConfigError

# Seconds between two lines of progress.
_PROGRESS_SECONDS = 20.0


class Result(NamedTuple):
  """What an evaluation found.

  Attributes:
    candidates: ranked answers of each (task name, test index).
    scores: pass@k under the three rules.
    metrics: scalars for the log; rows are single predictions, before voting.
  """

  candidates: dict[tuple[str, int], list[voting.Candidate]]
  scores: dict[int, voting.Score]
  metrics: dict[str, float]


def match_identifiers(
  puzzles: ArcSet, chosen: EvaluationRows, saved_names: Sequence[str]
) -> np.ndarray:
  """Row of a checkpoint's puzzle table for each of our puzzle identifiers.

  Matched by name; -1 for what the checkpoint lacks and `chosen` does not need.

  Raises:
    ConfigError: the checkpoint does not know some of the chosen puzzles.
  """
  saved = {name: row for row, name in enumerate(saved_names)}
  names = puzzles.identifier_names()
  rows = np.array([saved.get(name, -1) for name in names], np.int32)
  wanted = np.unique(chosen.augmentation + 1)
  missing = wanted[rows[wanted] < 0]
  if len(missing):
    raise ConfigError(
      f'the checkpoint has no embedding of {len(missing)} puzzles, e.g. '
      f"'{names[missing[0]]}'; evaluate with the data that it was trained on"
    )
  return rows


def evaluate(
  puzzles: ArcSet,
  chosen: EvaluationRows,
  identifiers: np.ndarray,
  predict: inference.PredictFunction,
  mesh: Mesh,
  variables: Any,
  puzzle_table: chex.Array,
  batch_size: int,
) -> Result:
  """Predicts, votes and scores; all processes of a mesh get the result.

  Args:
    puzzles: where the tasks come from.
    chosen: the rows to predict, those of a test input together.
    identifiers: the row of `puzzle_table` of each puzzle identifier.
    predict: of `inference.sharded_predict`.
    mesh: that `predict` runs on.
    variables: of the model.
    puzzle_table: float32 [R, E].
    batch_size: rows at a time; the last batch is filled up, and what is
      predicted for the filling is dropped.
  """
  tally = _Tally(puzzles, chosen)
  local = sharding.local_rows(mesh, batch_size)
  begin = shown = time.monotonic()
  batches = puzzles.evaluation_batches(chosen, batch_size, local)
  for number, batch in enumerate(batches):
    first = number * batch_size
    batch['puzzle_identifiers'] = identifiers[batch['puzzle_identifiers']]
    found = predict(variables, puzzle_table, sharding.global_batch(mesh, batch))
    count = min(batch_size, len(chosen) - first)
    tally.add(_rows(jax.device_get(found), 0, count))
    now = time.monotonic()
    if now - shown > _PROGRESS_SECONDS:
      shown = now
      done = first + count
      left = (now - begin) / done * (len(chosen) - done)
      logging.info(
        'Predicted %d of %d, %s left',
        done, len(chosen), datetime.timedelta(seconds=round(left)),
      )  # fmt: skip
  return tally.result()


class _Tally:
  """Votes on each test input as soon as its last row has been predicted."""

  def __init__(self, puzzles: ArcSet, chosen: EvaluationRows):
    self._puzzles, self._chosen = puzzles, chosen
    # Where the next test input begins.
    changes = (np.diff(chosen.task) != 0) | (np.diff(chosen.test) != 0)
    self._bounds = [*(np.flatnonzero(changes) + 1), len(chosen)]
    self._done, self._waiting = 0, []
    self._candidates = {}
    self._sums = dict.fromkeys(('exact', 'accuracy', 'steps'), 0.0)

  def add(self, found: inference.Predictions) -> None:
    self._waiting.append(found)
    for name in self._sums:
      self._sums[name] += float(np.sum(getattr(found, name)))
    available = self._done + sum(len(part.tokens) for part in self._waiting)
    if not self._bounds or self._bounds[0] > available:
      return
    merged = jax.tree.map(lambda *parts: np.concatenate(parts), *self._waiting)
    start = self._done
    while self._bounds and self._bounds[0] <= available:
      end = self._bounds.pop(0)
      self._vote(
        slice(self._done, end), _rows(merged, self._done - start, end - start)
      )
      self._done = end
    self._waiting = [_rows(merged, self._done - start, available - start)]

  def _vote(self, rows: slice, found: inference.Predictions) -> None:
    augmentation = self._chosen.augmentation[rows]
    table = self._puzzles.table
    grids, heights, widths = encoding.decode(
      found.tokens, table.dihedral[augmentation], table.colours[augmentation]
    )
    confidence = 1.0 / (1.0 + np.exp(-found.q_halt.astype(np.float64)))
    task = self._puzzles.tasks[self._chosen.task[rows.start]]
    key = (task.name, int(self._chosen.test[rows.start]))
    self._candidates[key] = voting.vote(
      grids, heights, widths, confidence, first=max(voting.ATTEMPTS)
    )

  def result(self) -> Result:
    tasks, chosen = self._puzzles.tasks, self._chosen
    scores = voting.score(self._candidates, self._puzzles.evaluation_tasks)
    metrics = {'eval/steps': self._sums['steps'] / len(chosen)}
    known = sum(
      tasks[task].tests[test].output is not None
      for task, test in zip(chosen.task, chosen.test, strict=True)
    )
    if known:
      metrics['eval/exact'] = self._sums['exact'] / known
      metrics['eval/accuracy'] = self._sums['accuracy'] / known
      for k, score in scores.items():
        for rule, tally in score._asdict().items():
          metrics[f'eval/pass@{k}/{rule}'] = tally.rate
    return Result(self._candidates, scores, metrics)


def summary(result: Result) -> str:
  """pass@1 and pass@2 over test outputs, in a few words."""
  parts = []
  for k in (1, 2):
    tally = result.scores[k].outputs
    parts.append(f'pass@{k} {tally.solved}/{tally.scored}')
  return ', '.join(parts)


def _rows(
  found: inference.Predictions, begin: int, end: int
) -> inference.Predictions:
  return inference.Predictions(*(array[begin:end] for array in found))
