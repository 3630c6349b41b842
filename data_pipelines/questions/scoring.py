"""Scores of puzzles with one answer: exact, by cells, and whether it is valid.

A prediction is valid where it solves the question, be it the label or not.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from data_pipelines import scoring
from data_pipelines.questions.domain import Asked, Domain


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class AnswerResult(scoring.Result):
  """Predicted answers, and their scores.

  The domain is None where it is not known. Questions and labels are tokens,
  uint8 [rows, S]. `found` holds `tokens` [rows, S] and, [rows] each,
  `confidence`, `steps`, `exact`, `accuracy` and, for a known domain, `valid`.
  """

  domain: Domain | None
  vocab_size: int
  names: Sequence[str]
  questions: np.ndarray
  labels: np.ndarray
  found: Mapping[str, np.ndarray]

  def _counted(self, name: str) -> str:
    return f'{int(self.found[name].sum())}/{len(self.names)}'

  def summary(self) -> str:
    counts = [
      f'{name} {self._counted(name)}'
      for name in ('exact', 'valid')
      if name in self.found
    ]
    cells = f'{100 * self.metrics["eval/accuracy"]:.2f} % of the cells'
    return ', '.join([*counts, cells]) + self._other_answers()

  def _other_answers(self) -> str:
    """How many valid answers are not the label, where there may be some."""
    if self.domain is None or self.domain.has_one_answer:
      return ''
    others = int(np.sum(self.found['valid']) - np.sum(self.found['exact']))
    return f'; valid answers other than the label: {others}'

  def report(self) -> str:
    lines = []
    for title, name in (
      ('Exact accuracy ', 'exact'),
      ('Cell accuracy  ', 'accuracy'),
      ('Valid solutions', 'valid'),
    ):
      if name in self.found:
        line = f'{title} {100 * self.metrics[f"eval/{name}"]:6.2f} %'
        is_count = name != 'accuracy'
        line += f' ({self._counted(name)})' * is_count
        lines.append(line + self._other_answers() * (name == 'valid'))
    copied = (self.questions == self.labels).mean()
    lines.append(
      f'Baseline, the question as its own answer: {100 * copied:.2f} % of the '
      f'cells; {self.metrics["eval/steps"]:.1f} segments a puzzle'
    )
    return '\n'.join(lines)


class AnswerJudge(scoring.Judge):
  """Keeps predictions of puzzles, in their order, and compares them."""

  def __init__(self, asked: Asked):
    self._asked, self._parts = asked, list[dict[str, np.ndarray]]()

  def add(self, found: scoring.Predictions) -> None:
    names = ('tokens', 'steps', 'exact', 'accuracy')
    part = {name: getattr(found, name) for name in names}
    self._parts.append(part | {'confidence': scoring.confidence(found.q_halt)})

  def result(self) -> AnswerResult:
    asked = self._asked
    questions, labels = asked.read(np.arange(asked.count))
    found = {
      name: np.concatenate([part[name] for part in self._parts])
      for name in self._parts[0]
    }
    if asked.domain is not None:
      valid = asked.domain.valid(questions, found['tokens'])
      found['valid'] = valid | found['exact']
    metrics = {
      f'eval/{name}': float(np.mean(found[name]))
      for name in ('exact', 'accuracy', 'valid', 'steps')
      if name in found
    }
    return AnswerResult(
      metrics=metrics,
      domain=asked.domain,
      vocab_size=asked.vocab_size,
      names=[asked.name(row) for row in range(asked.count)],
      questions=questions,
      labels=labels,
      found=found,
    )
