"""From predictions to scores: what judges and results are for every puzzle.

A judge takes predictions batch by batch and gives a result: a frozen record of
the scores and of what they were taken from. Neither writes nor draws.
"""

import abc
import dataclasses
from typing import Generic, NamedTuple, TypeVar

import numpy as np

# Of NumPy, or of JAX while they are computed.
Array = TypeVar('Array')


class Predictions(NamedTuple, Generic[Array]):
  """What a model answers, a row each.

  Attributes:
    tokens: uint8 [B, S], most likely token of each cell.
    q_halt: float32 [B], logit of "this answer is right".
    steps: int32 [B], segments that the answer took.
    exact: bool [B], every counted cell of the label is right; False where no
      cell counts, the answer being unknown.
    accuracy: float32 [B], fraction of the counted cells that are right.
  """

  tokens: Array
  q_halt: Array
  steps: Array
  exact: Array
  accuracy: Array


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Result(abc.ABC):
  """Predictions with their scores.

  Attributes:
    metrics: scores as numbers for a log, by name (`eval/...`).
  """

  metrics: dict[str, float]

  @abc.abstractmethod
  def summary(self) -> str:
    """The headline in a few words."""

  @abc.abstractmethod
  def report(self) -> str:
    """The scores as a person reads them, several lines."""


class Judge(abc.ABC):
  """Scores the predictions of chosen rows."""

  @abc.abstractmethod
  def add(self, found: Predictions[np.ndarray]) -> None:
    """Takes the next rows' predictions, in the order of the chosen rows."""

  @abc.abstractmethod
  def result(self) -> Result:
    """The scores, once the predictions of all rows have been added."""


def confidence(q_halt: np.ndarray) -> np.ndarray:
  """Probabilities that answers are right: sigmoid(q_halt), float64."""
  return 1.0 / (1.0 + np.exp(-q_halt.astype(np.float64)))
