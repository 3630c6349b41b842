"""Scores of puzzles with one answer: exact, by cells, and whether it is valid.

A prediction is valid where it solves the question, be it the label or not.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from data_pipelines import scoring
from data_pipelines.questions.choosing import RULES, alike, choose
from data_pipelines.questions.domain import Asked, Domain

# Stands beside the rules: whether any prediction is exact.
BEST = 'possible'
_BY_RULE = re.compile(r'eval/exact/(\w+)@(\d+)')


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class AnswerResult(scoring.Result):
  """Predicted answers, and their scores.

  The domain is None where it is not known. Questions and labels are tokens,
  uint8 [rows, S]. `found` holds `tokens` [rows, S] and, [rows] each,
  `confidence`, `steps`, `exact`, `accuracy` and, for a known domain, `valid`;
  of the prediction that was chosen, by the rule `choose`, of so many `cast`,
  and the `votes` of those that equal it.
  """

  domain: Domain | None
  vocab_size: int
  names: Sequence[str]
  questions: np.ndarray
  labels: np.ndarray
  found: Mapping[str, np.ndarray]
  cast: int = 1
  choose: str = ''

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
      f'cells; {self.metrics["eval/steps"] * self.cast:.1f} segments a puzzle'
    )
    if self.cast > 1:
      lines.append(self._curves())
    return '\n'.join(lines)

  def _curves(self) -> str:
    """Exact accuracy by the number of predictions and by each rule."""
    found = by_rule(self.metrics)
    lines = [
      f'Answers chosen by {self.choose} from {self.cast} predictions of each. '
      'Exact, of the first N, by each rule:',
      f'{"N":>6}' + ''.join(f'{rule:>10}' for rule in found),
    ]
    for number in _numbers(self.cast):
      rates = (rates[number] for rates in found.values())
      cells = ''.join(f'{100 * rate:8.2f} %' for rate in rates)
      lines.append(f'{number:6}{cells}')
    return '\n'.join(lines)


class AnswerJudge(scoring.Judge):
  """Keeps predictions of puzzles, in their order, and compares them.

  There are `votes` predictions of each puzzle, one after another; `undo` makes
  answers to the puzzles of answers to what was shown, and the rule `choose`
  takes one of them.
  """

  def __init__(
    self,
    asked: Asked,
    votes: int = 1,
    choose: str = 'vote',
    undo: Callable[[np.ndarray], np.ndarray] = lambda tokens: tokens,
  ):
    self._asked, self._votes, self._choose = asked, votes, choose
    self._undo, self._parts = undo, list[dict[str, np.ndarray]]()

  def add(self, found: scoring.Predictions) -> None:
    names = ('tokens', 'steps', 'exact', 'accuracy')
    part = {name: getattr(found, name) for name in names}
    self._parts.append(part | {'confidence': scoring.confidence(found.q_halt)})

  def result(self) -> AnswerResult:
    asked, votes = self._asked, self._votes
    questions, labels = asked.read(np.arange(asked.count))
    found = {
      name: np.concatenate([part[name] for part in self._parts])
      for name in self._parts[0]
    }
    found['tokens'] = self._undo(found['tokens'])
    steps = float(np.mean(found['steps']))
    if asked.domain is not None:
      found['valid'] = asked.domain.valid(
        np.repeat(questions, votes, axis=0), found['tokens']
      )
    curves: dict[str, float] = {}
    if votes > 1:
      found, curves = self._chosen(found)
    if 'valid' in found:
      found['valid'] = found['valid'] | found['exact']
    metrics = {
      f'eval/{name}': float(np.mean(found[name]))
      for name in ('exact', 'accuracy', 'valid')
      if name in found
    }
    return AnswerResult(
      metrics=metrics | {'eval/steps': steps} | curves,
      domain=asked.domain,
      vocab_size=asked.vocab_size,
      names=[asked.name(row) for row in range(asked.count)],
      questions=questions,
      labels=labels,
      found=found,
      cast=votes,
      choose=self._choose,
    )

  def _chosen(
    self, found: dict[str, np.ndarray]
  ) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """The chosen predictions, and how exact each rule is from the first N."""
    found = {
      name: array.reshape(self._asked.count, self._votes, *array.shape[1:])
      for name, array in found.items()
    }
    answer, exact = alike(found['tokens']), found['exact']
    rules = [rule for rule in RULES if rule != 'valid' or 'valid' in found]
    rows, curves = np.arange(len(exact)), {}
    for number in _numbers(self._votes):
      some = slice(number)
      for rule in rules:
        # Where validity is not known, no rule looks at it.
        valid = found.get('valid', exact)[:, some]
        taken = choose(
          rule, answer[:, some], found['confidence'][:, some], valid
        )
        rate = float(np.mean(exact[rows, taken]))
        curves[f'eval/exact/{rule}@{number}'] = rate
        if (rule, number) == (self._choose, self._votes):
          best = taken
      curves[f'eval/exact/{BEST}@{number}'] = float(
        np.mean(exact[:, some].any(axis=1))
      )
    same = answer == answer[rows, best][:, None]
    found = {name: array[rows, best] for name, array in found.items()}
    return found | {'votes': same.sum(axis=1)}, curves


def by_rule(metrics: Mapping[str, float]) -> dict[str, dict[int, float]]:
  """Exact accuracy by the rule and by the number of predictions, of metrics."""
  found = {rule: dict[int, float]() for rule in (*RULES, BEST)}
  for name, value in metrics.items():
    if match := _BY_RULE.fullmatch(name):
      found.setdefault(match[1], {})[int(match[2])] = value
  return {rule: rates for rule, rates in found.items() if rates}


def _numbers(votes: int) -> list[int]:
  """1, 2, 4 and so on, and `votes`."""
  return [*(2**i for i in range(votes.bit_length()) if 2**i < votes), votes]
