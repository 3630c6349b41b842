"""How well held-out puzzles are solved as training goes on.

  python -m experiments.learning_curves --runs=DIR,DIR,... --out=FILE.png \
      [--metric=exact]

Draws a metric of the evaluations made while training (--config.evaluate_every)
against optimizer steps. Runs that differ in their seed alone are one line:
their mean, in a band from the least to the most. Prints the last values as a
table, then as a line of JSON.
"""

import json
import pathlib
import statistics
import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

from absl import flags

from data_pipelines.errors import ConfigError
from experiments.cli import data_flags, launch
from experiments.drawing import charts
from experiments.reporting import runs

_METRIC = flags.DEFINE_string(
  'metric', 'exact', "Of the evaluations in metrics.jsonl, without 'eval/'."
)
_PREFIX = 'eval/'
# These are counts; the others are shares, shown in percent.
_COUNTS = ('steps', 'leaking_answers')


class Curve(NamedTuple):
  """A metric of runs that differ in their seed alone.

  Attributes:
    label: of the group.
    group: the runs.
    steps: at which all of them were evaluated.
    values: of each run, one for each step.
  """

  label: str
  group: runs.Group
  steps: list[int]
  values: list[list[float]]

  def over_runs(self, function) -> list[float]:
    """`function` of the runs' values at each step."""
    return [function(at_step) for at_step in zip(*self.values, strict=True)]


def read(found: Sequence[runs.Run], metric: str) -> list[Curve]:
  """The curves of runs.

  Args:
    found: the runs, all scored on the same puzzles in the same way.
    metric: without its prefix `eval/`.

  Raises:
    ConfigError: they were scored on different puzzles or in different ways,
      there is no such metric, or seeds of one group have no step in common.
  """
  first = found[0]
  for run in found:
    if difference := _difference(_scored(first), _scored(run)):
      raise ConfigError(
        f'{run.directory}: scored otherwise than {first.directory}: '
        f'{difference}; draw the two in separate charts'
      )
    known = set().union(*run.evaluations)
    if _PREFIX + metric not in known:
      names = sorted(
        name.removeprefix(_PREFIX) for name in known if name.startswith(_PREFIX)
      )
      raise ConfigError(
        f'--metric={metric} is not in {run.directory}/metrics.jsonl; there are '
        + ', '.join(names)
      )
  groups = runs.group(found)
  return [
    _curve(label, group, _PREFIX + metric)
    for label, group in zip(runs.labels(groups), groups, strict=True)
  ]


def _curve(label: str, group: runs.Group, metric: str) -> Curve:
  by_step = []
  for run in group.runs:
    values = {line['step']: line.get(metric) for line in run.evaluations}
    for step, value in values.items():
      if type(value) not in (int, float):
        raise ConfigError(
          f'{run.directory}/metrics.jsonl: {metric} at step {step} is '
          f'{value!r} and must be a number; remove that line'
        )
    by_step.append(values)
  # A mean over fewer seeds here and more there would be another curve.
  steps = sorted(set.intersection(*map(set, by_step)))
  if not steps:
    names = ', '.join(str(run.directory) for run in group.runs)
    raise ConfigError(
      f'{names}: differ in their seed alone, but were never evaluated at the '
      'same step; draw them in separate charts'
    )
  return Curve(
    label, group, steps, [[values[s] for s in steps] for values in by_step]
  )


def _scored(run: runs.Run) -> dict[str, Any]:
  """What must be the same for values to stand on one axis."""
  config = run.config
  return {
    'held out': run.data_version.rpartition('evaluate ')[2],
    'data.canvas': config.data.canvas,
    **{
      f'evaluation.{key}': config.evaluation[key]
      for key in ('halting', 'max_augmentations', 'max_puzzles')
    },
  }


def _difference(ours: dict[str, Any], theirs: dict[str, Any]) -> str:
  return ', '.join(
    f'{key} {ours[key]} there, {theirs[key]} here'
    for key in ours
    if ours[key] != theirs[key]
  )


def table(curves: Sequence[Curve], metric: str) -> str:
  """The last values as plain text."""
  width = max(len(curve.label) for curve in curves)
  scale, unit = (1, '') if metric in _COUNTS else (100, ', percent')
  lines = [
    f'{metric} of what is held out{unit}',
    f'{"":{width}}     mean      min      max  runs    step',
  ]
  for curve in curves:
    numbers = (
      f'{scale * curve.over_runs(function)[-1]:9.2f}'
      for function in (statistics.mean, min, max)
    )
    lines.append(
      f'{curve.label:{width}}{"".join(numbers)}{len(curve.values):6}'
      f'{curve.steps[-1]:8}  {charts.count(curve.group.parameters)}'
    )
  return '\n'.join(lines)


def record(curves: Sequence[Curve], metric: str) -> dict[str, Any]:
  """The last values as JSON."""
  return {
    'metric': metric,
    'groups': [
      {
        'system': curve.label,
        'parameters': curve.group.parameters,
        'seeds': curve.group.seeds,
        'runs': [str(run.directory) for run in curve.group.runs],
        'step': curve.steps[-1],
        'mean': curve.over_runs(statistics.mean)[-1],
        'min': curve.over_runs(min)[-1],
        'max': curve.over_runs(max)[-1],
      }
      for curve in curves
    ],
  }


def draw(curves: Sequence[Curve], metric: str) -> charts.Figure:
  """The curves, each with the band of its seeds."""
  figure = charts.figure(9.0, 5.4)
  axes = figure.add_subplot()
  for number, curve in enumerate(curves):
    # Where the colours begin again, the lines look otherwise.
    turn, colour = divmod(number, len(charts.LINES))
    count = len(curve.values)
    axes.plot(
      curve.steps,
      curve.over_runs(statistics.mean),
      color=charts.LINES[colour],
      linestyle=('-', '--', ':', '-.')[turn % 4],
      marker='o',
      markersize=3.5,
      label=f'{curve.label}, {charts.count(curve.group.parameters)}, '
      f'{count} seed{"s" * (count > 1)}',
    )
    if count > 1:
      axes.fill_between(
        curve.steps,
        curve.over_runs(min),
        curve.over_runs(max),
        color=charts.LINES[colour],
        alpha=0.18,
        linewidth=0,
      )
  axes.set_xlabel('optimizer steps')
  axes.set_ylabel(f'{metric} of what is held out')
  if metric not in _COUNTS:
    charts.show_percent(axes.yaxis)
  axes.set_xlim(left=0)
  axes.set_ylim(bottom=0)
  axes.grid(alpha=0.3)
  axes.spines[['top', 'right']].set_visible(False)
  held_out = _scored(curves[0].group.runs[0])['held out']
  axes.set_title(textwrap.fill(held_out, 90), fontsize=9, loc='left')
  # Below, where no line can run behind it.
  figure.legend(loc='outside lower center', fontsize=9)
  return figure


def main(_) -> None:
  for flag, example in (
    (runs.RUNS, 'runs/hrm_0,runs/hrm_1'),
    (data_flags.OUT, 'curves.png'),
  ):
    if not flag.value:
      raise ConfigError(
        f'--{flag.name} is missing, e.g. --{flag.name}={example}'
      )
  out = pathlib.Path(data_flags.OUT.value)
  if out.suffix != '.png':
    raise ConfigError(f'--out={out} must end in .png')
  metric = _METRIC.value.removeprefix(_PREFIX)
  curves = read(runs.read_all(runs.RUNS.value), metric)
  charts.save(draw(curves, metric), out)
  print(table(curves, metric))
  print(f'Written: {out}')
  print(json.dumps({**record(curves, metric), 'out': str(out)}))


if __name__ == '__main__':
  launch.run(main)
