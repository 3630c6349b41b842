"""From predictions to scores: what judges and results are for every puzzle.

A judge takes predictions batch by batch and gives a result: a frozen record of
the scores and of what they were taken from. Neither writes nor draws.
"""

import abc
import dataclasses
from typing import Protocol

import numpy as np


class Predictions(Protocol):
  """What a model answers, see `hrm_jax.inference.predict.Predictions`."""

  tokens: np.ndarray
  q_halt: np.ndarray
  steps: np.ndarray
  exact: np.ndarray
  accuracy: np.ndarray


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
  def add(self, found: Predictions) -> None:
    """Takes the next rows' predictions, in the order of the chosen rows."""

  @abc.abstractmethod
  def result(self) -> Result:
    """The scores, once the predictions of all rows have been added."""


def confidence(q_halt: np.ndarray) -> np.ndarray:
  """Probabilities that answers are right: sigmoid(q_halt), float64."""
  return 1.0 / (1.0 + np.exp(-q_halt.astype(np.float64)))
