"""Scores by the number of predictions and the rule that chooses among them.

Read from evaluations that ask a model several times (`evaluate --rollouts`,
`--symmetries`, `--ensemble`), where each run of a group was asked so, and from
analyses that follow its answers from segment to segment (`analyze
--only=segments`).
"""

import pathlib
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from data_pipelines import files
from data_pipelines.errors import ConfigError
from data_pipelines.questions import scoring
from experiments.reporting import charts, comparison, runs

_WORDS = (
  'Percent exact by the rule that chooses among so many predictions of each '
  'puzzle, mean\nover runs (lowest … highest); `possible`: how often any is '
  'right. Segments are those of\na puzzle. Of an analysis, predictions are the '
  'answers after 1, 2, … segments, and `last` is\nthe newest one.'
)
# The rule of whoever takes the answer after so many segments.
_LAST = 'last'
# The same colour in all panels.
_COLOURS = dict(
  zip((*scoring.RULES, scoring.BEST, _LAST), charts.LINES, strict=False)
)


class Curves(NamedTuple):
  """What runs that differ in their seed alone scored, asked in one way.

  `asked` is the directory of the evaluation, which tells the flags, or that of
  the analysis and its number of rows. `values` has by rule, for each of
  `counts` (numbers of predictions), the score of each run; `segments` is the
  mean number that one prediction took.
  """

  label: str
  held_out: str
  asked: str
  seeds: list[int]
  segments: float
  counts: list[int]
  values: dict[str, list[list[float]]]


# Of one run: exact by rule and number of predictions, and segments of each.
_Asked = tuple[dict[str, dict[int, float]], float]


def read(found: Sequence[runs.Run]) -> list[Curves]:
  """Reads the evaluations that all runs of a group have, if there are any."""
  curves = []
  for label, group in runs.labelled(found, _held_out, _held_out):
    of_runs = [dict(_asked(run.directory)) for run in group]
    for asked in sorted(set.intersection(*map(set, of_runs))):
      values, segments = zip(*(one[asked] for one in of_runs), strict=True)
      seeds = [run.config.seed for run in group]
      curves.append(
        Curves(
          label,
          group[0].held_out,
          asked,
          seeds,
          statistics.mean(segments),
          *_beside(values, [str(run.directory / asked) for run in group]),
        )
      )
  return curves


def _held_out(run: runs.Run) -> str:
  return run.held_out


def _asked(directory: pathlib.Path) -> Iterator[tuple[str, _Asked]]:
  """What a run was asked several times, by its directory in the run's."""
  for path in directory.glob('evaluation/step_*/scores.json'):
    metrics = runs.read_scores(path, 'evaluate again').metrics
    values = scoring.by_rule(metrics)
    if any(len(rates) > 1 for rates in values.values()):
      try:
        yield _name(path, directory), (values, metrics['eval/steps'])
      except KeyError as error:
        raise ConfigError(f'{path}: no {error}; evaluate again') from None
  for path in directory.glob('analysis/step_*/segments.json'):
    try:
      record = files.parse_json(files.read(path), path)
      numbers, rows = record['numbers'], record['settings']['rows']
      if chosen := numbers.get('chosen'):
        counts = chosen['segments']
        exact = [numbers['exact'][numbers['segments'].index(x)] for x in counts]
        of_rules = {_LAST: exact} | chosen
        del of_rules['segments']
        values = {
          rule: dict(zip(counts, rates, strict=True))
          for rule, rates in of_rules.items()
        }
        yield f'{_name(path, directory)}, {rows} rows', (values, 1.0)
    except (KeyError, TypeError, ValueError, AttributeError):
      raise ConfigError(
        f'{path}: not what analyze writes; analyze again'
      ) from None


def _name(path: pathlib.Path, directory: pathlib.Path) -> str:
  return str(path.parent.relative_to(directory))


def _beside(
  values: Sequence[Mapping[str, Mapping[int, float]]], paths: Sequence[str]
) -> tuple[list[int], dict[str, list[list[float]]]]:
  """The numbers of predictions, and by rule the scores of each run at these."""
  rules, counts = list(values[0]), list(next(iter(values[0].values())))
  for of_run in values:
    if list(of_run) != rules or any(
      list(rates) != counts for rates in of_run.values()
    ):
      raise ConfigError(
        f'{", ".join(paths)}: not all have the same rules and numbers of '
        'predictions; evaluate or analyze again'
      )
  return counts, {
    rule: [[one[rule][count] for one in values] for count in counts]
    for rule in rules
  }


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
      f'{one.label}, seeds {seeds}, {one.asked}\n\nHeld out: '
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
  columns = min(2, len(curves))
  rows = -(-len(curves) // columns)
  figure = charts.figure(6.5 * columns, 4.0 * rows)
  shared = None
  for place, one in enumerate(curves, 1):
    axes = figure.add_subplot(rows, columns, place, sharey=shared)
    shared = shared or axes
    for rule, values in one.values.items():
      # What a rule may reach, which `valid` often does.
      dashed = '--' if rule == scoring.BEST else '-'
      charts.line(
        axes, one.counts, values, _COLOURS[rule], label=rule, linestyle=dashed
      )
    axes.set_xscale('log', base=2)
    axes.set_xticks(one.counts, map(str, one.counts))
    axes.set_title(f'{one.label}, {one.asked}', fontsize=9, loc='left')
    after = 'segments' if _LAST in one.values else 'predictions'
    axes.set_xlabel(f'{after} of each puzzle')
    axes.set_ylabel('exact of what is held out')
    charts.show_percent(axes.yaxis)
    axes.legend(fontsize=9, frameon=False)
  return figure
