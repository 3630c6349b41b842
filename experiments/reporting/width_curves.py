"""Scores by the number of predictions and the rule that chooses among them.

Read from evaluations that ask a model several times (`evaluate --rollouts`,
`--symmetries`, `--ensemble`), where each run of a group was asked so.
"""

import re
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from data_pipelines.errors import ConfigError
from data_pipelines.questions import scoring
from experiments.reporting import charts, comparison, runs

_NAME = re.compile(r'eval/exact/(\w+)@(\d+)')


_WORDS = (
  'Percent exact by the rule that chooses among so many predictions of each '
  'puzzle, mean\nover runs (lowest … highest); `possible`: how often any is '
  'right. Segments are those of\na puzzle.'
)


class Curves(NamedTuple):
  """What runs that differ in their seed alone scored, asked in one way.

  `asked` is the directory of the evaluation, which tells the flags. `values`
  has by rule, for each of `counts` (numbers of predictions), the score of each
  run; `segments` is the mean number that one prediction took.
  """

  label: str
  held_out: str
  asked: str
  seeds: list[int]
  segments: float
  counts: list[int]
  values: dict[str, list[list[float]]]


def read(found: Sequence[runs.Run]) -> list[Curves]:
  """Reads the evaluations that all runs of a group have, if there are any."""
  return [
    curves
    for label, group in runs.labelled(found, _held_out, _held_out)
    for asked in sorted(set.intersection(*map(_evaluations, group)))
    if (curves := _curves(label, asked, group))
  ]


def _held_out(run: runs.Run) -> str:
  return run.held_out


def _evaluations(run: runs.Run) -> set[str]:
  paths = (run.directory / 'evaluation').glob('step_*/scores.json')
  return {path.parent.name for path in paths}


def _curves(label: str, asked: str, group: runs.Group) -> Curves | None:
  paths = [run.directory / 'evaluation' / asked for run in group]
  scores = [
    runs.read_scores(path / 'scores.json', 'evaluate again').metrics
    for path in paths
  ]
  names = {
    (match[1], int(match[2]))
    for match in map(_NAME.fullmatch, scores[0])
    if match
  }
  counts = sorted({count for _, count in names})
  if len(counts) < 2:
    return None
  try:
    values = {
      rule: [
        [one[f'eval/exact/{rule}@{count}'] for one in scores]
        for count in counts
      ]
      for rule in (*scoring.RULES, scoring.BEST)
      if (rule, counts[-1]) in names
    }
    segments = statistics.mean(one['eval/steps'] for one in scores)
  except KeyError as error:
    raise ConfigError(
      f'{", ".join(map(str, paths))}: not all have {error}; evaluate again'
    ) from None
  seeds = [run.config.seed for run in group]
  return Curves(
    label, group[0].held_out, asked, seeds, segments, counts, values
  )


def report(curves: Sequence[Curves]) -> str:
  """Tables in Markdown, a row for each number of predictions."""
  parts = []
  for one in curves:
    header = ['predictions', 'segments', *one.values]
    rows = [
      [
        str(count),
        f'{count * one.segments:.0f}',
        *(_spread(by_count[place]) for by_count in one.values.values()),
      ]
      for place, count in enumerate(one.counts)
    ]
    seeds = ', '.join(map(str, one.seeds))
    parts.append(
      f'{one.label}, seeds {seeds}, evaluation/{one.asked}\n\nHeld out: '
      f'{one.held_out}\n\n{comparison.table(header, rows)}'
    )
  return '\n\n'.join(['## Asked several times', _WORDS, *parts])


def _spread(values: Sequence[float]) -> str:
  text = f'{100 * statistics.mean(values):.1f}'
  if len(values) > 1:
    text += f' ({100 * min(values):.1f} … {100 * max(values):.1f})'
  return text


def draw(curves: Sequence[Curves]) -> charts.Figure:
  """Draws a panel for each way of asking, with a line for each rule."""
  figure = charts.figure(9.0, 4.8 * len(curves))
  panels = figure.subplots(len(curves), squeeze=False)[:, 0]
  for axes, one in zip(panels, curves, strict=True):
    for colour, (rule, values) in zip(
      charts.LINES, one.values.items(), strict=False
    ):
      # What a rule may reach, which `valid` often does.
      dashed = '--' if rule == scoring.BEST else '-'
      charts.line(
        axes, one.counts, values, colour, label=rule, linestyle=dashed
      )
    axes.set_xscale('log', base=2)
    axes.set_xticks(one.counts, map(str, one.counts))
    axes.set_title(f'{one.label}, {one.asked}', fontsize=9, loc='left')
    axes.set_xlabel('predictions of each puzzle')
    axes.set_ylabel('exact of what is held out')
    charts.show_percent(axes.yaxis)
    axes.legend(fontsize=9, frameon=False)
  return figure
