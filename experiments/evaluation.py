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
  """Rows of a checkpoint's puzzle table for the chosen rows, by name.

  Raises:
    ConfigError: the checkpoint does not know some of the augmented puzzles.
  """
  names = puzzles.identifier_names()
  ours = chosen.augmentation + 1
  if names == list(saved_names):
    return ours
  saved = {name: row for row, name in enumerate(saved_names)}
  missing = sorted({names[i] for i in ours} - saved.keys())
  if missing:
    raise ConfigError(
      f'the checkpoint has no embedding of {len(missing)} puzzles, e.g. '
      f"'{missing[0]}'; evaluate with the data that it was trained on"
    )
  return np.array([saved[names[i]] for i in ours])


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
    identifiers: the row of `puzzle_table` of each chosen row.
    predict: of `inference.sharded_predict`.
    mesh: that `predict` runs on.
    variables: of the model.
    puzzle_table: float32 [R, E].
    batch_size: rows at a time; the last batch is filled up and masked.
  """
  tally = _Tally(puzzles, chosen)
  local = sharding.local_rows(mesh, batch_size)
  begin = shown = time.monotonic()
  batches = puzzles.evaluation_batches(chosen, batch_size, local)
  for number, batch in enumerate(batches):
    batch.pop('mask')
    first = number * batch_size
    index = np.arange(first, first + batch_size)[local]
    batch['puzzle_identifiers'] = identifiers[
      np.minimum(index, len(chosen) - 1)
    ].astype(np.int32)
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
    self._candidates[key] = voting.vote(grids, heights, widths, confidence)

  def result(self) -> Result:
    scores = voting.score(self._candidates, self._puzzles.evaluation_tasks)
    count = len(self._chosen)
    metrics = {
      f'eval/{name}': total / count for name, total in self._sums.items()
    }
    for k, score in scores.items():
      if score.outputs.scored:
        for rule, tally in score._asdict().items():
          metrics[f'eval/pass@{k}/{rule}'] = tally.rate
    return Result(self._candidates, scores, metrics)


def _rows(
  found: inference.Predictions, begin: int, end: int
) -> inference.Predictions:
  return inference.Predictions(*(array[begin:end] for array in found))
