"""Scores of what answers without a run: language models and CompressARC."""

import math
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

from data_pipelines import files
from data_pipelines.errors import ConfigError, DataError
from experiments.reporting import comparison

_TEXT = (
  'Measured here too: systems that are not trained before, each by the rule '
  'beside its\nfigure. Attempts without a reply count as wrong.'
)
_HEADER = (
  '', 'system', 'puzzles', 'rule', 'solved', 'attempts', 'cost per puzzle',
  'date',
)  # fmt: skip


class Answered(NamedTuple):
  """What a system answered to puzzles, as scores.json tells it.

  `percent` is what was solved, by rule, the headline first; `command` runs it.
  """

  system: str
  puzzles: str
  percent: dict[str, float]
  attempts: int
  cost: str
  date: str
  command: str
  unanswered: int
  directory: str


def is_one(directory: pathlib.Path) -> bool:
  """Whether a directory has answers, and is no run."""
  return (directory / 'scores.json').exists() and not (
    directory / 'config.json'
  ).exists()


def read(directory: pathlib.Path) -> Answered:
  """Reads what `hrm-jax llm` or `hrm-jax compress` wrote.

  Raises:
    ConfigError: its scores.json is damaged, or tells no score.
  """
  path = directory / 'scores.json'
  try:
    found = files.parse_json(files.read(path), path)
    is_model = 'model' in found
    if is_model:
      attempts = found['attempts']
      price = found['cost_per_puzzle']
      cost = 'price not given' if price is None else f'${price:.4g}'
      dates = sorted({date[:10] for date in found['dates']})
      system, date = found['model'], ' to '.join(dates)
      command, unanswered = found['command'], found['unanswered']
    else:
      attempts, unanswered, date = 2, 0, ''
      system = f'CompressARC, {found["num_steps"]} steps, seed {found["seed"]}'
      cost = '–'
      command = 'hrm-jax compress --task=SPEC --out=DIR'
    scores = {k: v for k, v in found.items() if k.startswith('eval/')}
    percent = {
      rule: 100 * float(scores[key])
      for rule, key in _rules(attempts)
      if key in scores
    }
    if not percent or not all(map(math.isfinite, percent.values())):
      raise DataError(
        f'{path}: has no score, as where no answer is known; leave this out of '
        '--runs'
      )
    return Answered(
      system, found['puzzles'], percent, attempts, cost, date, command,
      unanswered, str(directory),
    )  # fmt: skip
  except DataError as error:
    raise ConfigError(str(error)) from None
  except (LookupError, TypeError, ValueError, AttributeError) as error:
    raise ConfigError(
      f'{path}: is not what llm or compress writes ({error!r:.80}); run the '
      'same command again'
    ) from None


def _rules(attempts: int) -> list[tuple[str, str]]:
  """Rules to count by and their metrics, the headline first."""
  many = [] if attempts == 1 else [attempts]
  return [
    *((f'pass@{k}, {name}', f'eval/pass@{k}/{rule}')
      for k in (*many, 1) for rule, name in comparison.RULES.items()),
    ('exact, one attempt', 'eval/exact'),
    ('valid, one attempt', 'eval/valid'),
    *((f'{name}, one of {k} attempts', f'eval/{name}@{k}')
      for k in many for name in ('exact', 'valid')),
  ]  # fmt: skip


def report(found: Sequence[Answered]) -> str:
  """A table in Markdown with all rules and commands below it."""
  rows, notes = [], []
  for number, one in enumerate(found, 1):
    rule, percent = next(iter(one.percent.items()))
    rows.append([
      f'({number})', one.system, one.puzzles, rule, f'{percent:.1f}',
      str(one.attempts), one.cost, one.date or '–',
    ])  # fmt: skip
    rules = ', '.join(f'{x} {value:.1f}' for x, value in one.percent.items())
    without = f'; {one.unanswered} attempts without a reply' * bool(
      one.unanswered
    )
    notes.append(
      f'* ({number}) {rules}{without}; run by `{one.command}`; {one.directory}'
    )
  return '\n\n'.join([_TEXT, comparison.table(_HEADER, rows), '\n'.join(notes)])
