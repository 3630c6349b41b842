"""Curves of a held-out metric against optimizer steps, as training went on.

And against the arithmetic of these steps, where all runs tell it.
"""

import statistics
import textwrap
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from data_pipelines.errors import ConfigError
from experiments.reporting import charts, runs
from hrm_jax.settings import EvaluationSettings

_PREFIX = 'eval/'
# Metrics that are counts; the others are fractions, shown in percent.
_COUNTS = ('steps', 'leaking_answers')


class Curve(NamedTuple):
  """A metric of runs that differ in their seed alone.

  `held_out` says which puzzles were scored, and how; each run has a value for
  each of the steps at which all of them were evaluated. `step_flops` are those
  of the matrix products of a step, if they are known.
  """

  label: str
  held_out: str
  parameters: int | None
  step_flops: float | None
  seeds: list[int]
  steps: list[int]
  values: list[list[float]]

  def over_runs(self, function: Callable[[Any], float]) -> list[float]:
    """Applies `function` to the values of all runs at each step."""
    return [function(at_step) for at_step in zip(*self.values, strict=True)]

  def record(self) -> dict[str, Any]:
    """The curve as JSON, with the mean, least and greatest value of a step."""
    functions = (statistics.mean, min, max)
    summary = {f.__name__: self.over_runs(f) for f in functions}
    return {**self._asdict(), **summary}


def read(found: Sequence[runs.Run], metric: str) -> list[Curve]:
  """Reads the curves of runs; `metric` is without its prefix `eval/`."""
  for run in found:
    path, known = run.directory / 'metrics.jsonl', set().union(*run.evaluations)
    names = sorted(n.removeprefix(_PREFIX) for n in known if _PREFIX in n)
    if not names:
      raise ConfigError(
        f'{path}: holds no evaluation; train with --config.evaluate_every=N'
      )
    if metric not in names:
      raise ConfigError(
        f'--metric={metric} is not in {path}; there are {", ".join(names)}'
      )
  return [
    _curve(label, _held_out(group[0]), group, _PREFIX + metric)
    for label, group in runs.labelled(found, _held_out, _held_out)
  ]


def _curve(label: str, held_out: str, group: runs.Group, metric: str) -> Curve:
  by_step = []
  for run in group:
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
    names = ', '.join(str(run.directory) for run in group)
    raise ConfigError(
      f'{names}: differ in their seed alone, but were never evaluated at the '
      'same step; compare them one at a time'
    )
  values = [[run[step] for step in steps] for run in by_step]
  seeds = [run.config.seed for run in group]
  parameters = runs.parameters(group)
  flops = group[0].step_flops
  return Curve(label, held_out, parameters, flops, seeds, steps, values)


def _held_out(run: runs.Run) -> str:
  """All that must be the same for values to stand on one axis, in words."""
  data, evaluation = run.config.data, run.config.evaluation
  parts = [run.held_out, f'halting: {evaluation.halting}']
  for key in ('max_augmentations', 'max_puzzles', 'symmetries'):
    value = getattr(evaluation, key)
    if value != getattr(EvaluationSettings, key):
      parts.append(f'{key}: {value}')
  if any('eval/pass@2/outputs' in line for line in run.evaluations):
    parts.insert(1, f'canvas {data.canvas}')
  return ', '.join(parts)


def draw(curves: Sequence[Curve], metric: str) -> charts.Figure:
  """Draws the curves, each with the band of its seeds.

  There is a row for each set of held-out puzzles and each way to score it: a
  panel against steps, and one against FLOPs where those of all are known.
  """
  panels: dict[str, list[Curve]] = {}
  for curve in curves:
    panels.setdefault(curve.held_out, []).append(curve)
  arithmetic = all(curve.step_flops for curve in curves)
  columns = 2 if arithmetic else 1
  figure = charts.figure(9.0 * columns, 5.4 * len(panels))
  rows = figure.subplots(len(panels), columns, squeeze=False)
  for row, (held_out, some) in zip(rows, panels.items(), strict=True):
    for axes, by_flops in zip(row, (False, True), strict=False):
      _draw_panel(axes, some, metric, by_flops)
    row[0].set_title(textwrap.fill(held_out, 90), fontsize=9, loc='left')
  return figure


def _draw_panel(
  axes, curves: Sequence[Curve], metric: str, by_flops: bool
) -> None:
  for number, curve in enumerate(curves):
    # Where the colours begin again, the lines look otherwise.
    turn, place = divmod(number, len(charts.LINES))
    colour, count = charts.LINES[place], len(curve.values)
    size = 'no checkpoint'
    if curve.parameters is not None:
      size = f'{curve.parameters:,} parameters'
    unit = (curve.step_flops or 0) * 1e-12 if by_flops else 1
    places = [unit * step for step in curve.steps]
    charts.line(
      axes, places, list(zip(*curve.values, strict=True)), colour,
      linestyle=('-', '--', ':', '-.')[turn % 4],
      label=f'{curve.label}, {size}, {count} seed{"s" * (count > 1)}',
    )  # fmt: skip
  axes.set_xlabel('TFLOP of training' if by_flops else 'optimizer steps')
  axes.set_ylabel(f'{metric} of what is held out')
  if metric not in _COUNTS:
    charts.show_percent(axes.yaxis)
  axes.set_xlim(left=0)
  axes.set_ylim(bottom=0)
  # Below the axes, where no line can run behind it.
  axes.legend(
    loc='upper center', bbox_to_anchor=(0.5, -0.12), fontsize=9, frameon=False
  )
