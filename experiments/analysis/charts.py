"""The figures of `experiments.analyze`, each drawn from its JSON alone."""

import math
from typing import Any

from experiments.drawing import charts

# A colour of its own for each of these, in every figure.
_STATES = {'z_H': charts.LINES[1], 'z_L': charts.LINES[0]}
_SCORES = {
  'exact': 'rows exact',
  'accuracy': 'cells',
  'valid': 'valid solutions',
  'pass@1': 'pass@1, by votes',
  'pass@2': 'pass@2, by votes',
}


def draw(record: dict[str, Any]) -> charts.Figure:
  """The figure of an analysis.

  Args:
    record: what its JSON file holds.
  """
  figure = _DRAWN[record['analysis']](record)
  settings = record['settings']
  figure.suptitle(
    f'{_TITLES[record["analysis"]]} (step {settings["step"]}, '
    f'{settings["rows"]} rows)',
    fontsize=10,
  )
  return figure


def _dimensions(record: dict[str, Any]) -> charts.Figure:
  figure = charts.figure(8.0, 3.6)
  curves, bars = figure.subplots(1, 2, width_ratios=(3, 2))
  numbers = record['numbers']
  labels, position = [], 0
  for network, line in (('trained', '-'), ('fresh', '--')):
    for state, pooled in numbers['participation_ratio'][network].items():
      values = [math.nan if v is None else v for v in pooled['tokens']]
      colour = _STATES[state]
      curves.plot(
        numbers['tasks'],
        values,
        line,
        color=colour,
        marker='o',
        markersize=3.5,
        label=f'{state}, {network}',
      )
      style = {'facecolor': colour if network == 'trained' else 'white'}
      drawn = bars.bar(position, values[-1], edgecolor=colour, **style)
      bars.bar_label(drawn, fmt='%.1f', fontsize=8)
      labels.append(f'{state}\n{network}')
      position += 1
  curves.set_xlabel('distinct tasks')
  curves.set_ylabel('participation ratio')
  curves.set_ylim(bottom=0)
  curves.legend(fontsize=8)
  bars.set_xticks(range(len(labels)), labels, fontsize=8)
  bars.set_title(
    f'of {record["settings"]["hidden_size"]} dimensions, all tasks', fontsize=9
  )
  bars.margins(y=0.12)
  _plain(curves)
  _plain(bars)
  return figure


def _residuals(record: dict[str, Any]) -> charts.Figure:
  figure = charts.figure(8.0, 3.6)
  axes = figure.add_subplot()
  settings = record['settings']
  for state, found in record['numbers'].items():
    colour = _STATES[state]
    quantiles = found['quantiles']
    axes.plot(
      found['update'],
      found['mean'],
      color=colour,
      marker='o',
      markersize=2.5,
      linewidth=1,
      label=f'{state}, mean',
    )
    for (low, high), alpha in (
      (('0.05', '0.95'), 0.12),
      (('0.25', '0.75'), 0.22),
    ):
      axes.fill_between(
        found['update'],
        quantiles[low],
        quantiles[high],
        color=colour,
        alpha=alpha,
        linewidth=0,
        label=f'{state}, {low} to {high}',
      )
  updates = len(settings['updates_of_a_segment'])
  _mark_end(axes, updates * settings['halt_max_steps'] + 0.5)
  axes.set_xlabel(f'update ({updates} a segment)')
  axes.set_ylabel('forward residual ‖zⁱ⁺¹ − zⁱ‖')
  axes.set_yscale('log')
  figure.legend(loc='outside right center', fontsize=8)
  _plain(axes)
  return figure


def _segments(record: dict[str, Any]) -> charts.Figure:
  figure = charts.figure(7.0, 3.8)
  axes = figure.add_subplot()
  _mark_end(axes, record['settings']['halt_max_steps'])
  _score_lines(axes, record['numbers'], 'segments')
  axes.set_xlabel('segments')
  axes.xaxis.get_major_locator().set_params(integer=True)
  return figure


def _augmentations(record: dict[str, Any]) -> charts.Figure:
  figure = charts.figure(7.0, 3.8)
  axes = figure.add_subplot()
  numbers = record['numbers']
  _score_lines(axes, numbers, 'augmentations')
  axes.set_xscale('log')
  axes.set_xticks(numbers['augmentations'], numbers['augmentations'])
  axes.minorticks_off()
  axes.set_xlabel('augmentations that vote')
  return figure


def _halting(record: dict[str, Any]) -> charts.Figure:
  figure = charts.figure(7.0, 3.4)
  scores, segments = figure.subplots(1, 2, width_ratios=(4, 1))
  numbers = record['numbers']
  _score_bars(scores, {m: {**v, 'segments': None} for m, v in numbers.items()})
  for position, (mode, found) in enumerate(numbers.items()):
    drawn = segments.bar(position, found['segments'], color=charts.MEASURED)
    segments.bar_label(drawn, fmt='%.2f', fontsize=8)
    del mode
  segments.set_xticks(range(len(numbers)), list(numbers), fontsize=8)
  segments.set_title('mean segments', fontsize=9)
  segments.margins(y=0.12)
  _plain(segments)
  return figure


def _identifiers(record: dict[str, Any]) -> charts.Figure:
  figure = charts.figure(7.0, 3.4)
  _score_bars(figure.add_subplot(), record['numbers'])
  return figure


def _calibration(record: dict[str, Any]) -> charts.Figure:
  figure = charts.figure(7.0, 3.6)
  axes, histogram = figure.subplots(1, 2)
  numbers = record['numbers']
  edges = numbers['edges']
  bins = [
    (confidence, exact)
    for confidence, exact in zip(
      numbers['confidence'], numbers['exact'], strict=True
    )
    if exact is not None
  ]
  axes.plot([0, 1], [0, 1], '--', color=charts.QUOTED, label='calibrated')
  axes.plot(*zip(*bins, strict=True), 'o-', color=charts.MEASURED, label='q')
  axes.set_xlabel('sigmoid(q_halt), mean of the bin')
  axes.set_ylabel('share of exact answers')
  axes.set_title(f'expected calibration error {numbers["ece"]:.3f}', fontsize=9)
  axes.set(xlim=(0, 1), ylim=(0, 1))
  histogram.stairs(numbers['count'], edges, fill=True, color=charts.MEASURED)
  histogram.set_xlabel('sigmoid(q_halt)')
  histogram.set_ylabel('rows')
  _plain(axes)
  _plain(histogram)
  return figure


def _score_lines(axes: charts.Axes, numbers: dict[str, Any], over: str) -> None:
  for number, (name, label) in enumerate(_SCORES.items()):
    if name in numbers:
      axes.plot(
        numbers[over],
        numbers[name],
        color=charts.LINES[number],
        marker='o',
        markersize=3.5,
        label=label,
      )
  charts.show_percent(axes.yaxis)
  axes.set_ylim(0, 1)
  axes.figure.legend(loc='outside right center', fontsize=8)
  _plain(axes)


def _score_bars(axes: charts.Axes, ways: dict[str, dict[str, Any]]) -> None:
  """A group of bars for each score, a bar for each way."""
  names = [name for name in _SCORES if name in next(iter(ways.values()))]
  width = 0.8 / len(ways)
  for number, (way, found) in enumerate(ways.items()):
    places = [x + (number + 0.5) * width - 0.4 for x in range(len(names))]
    drawn = axes.bar(
      places,
      [found[name] for name in names],
      width,
      color=charts.LINES[number],
      label=way,
    )
    axes.bar_label(
      drawn, [f'{100 * found[name]:.1f}' for name in names], fontsize=7
    )
  axes.set_xticks(range(len(names)), [_SCORES[n] for n in names], fontsize=8)
  charts.show_percent(axes.yaxis)
  axes.set_ylim(0, 1)
  axes.legend(fontsize=8)
  _plain(axes)


def _mark_end(axes: charts.Axes, place: float) -> None:
  axes.axvline(
    place, color=charts.QUOTED, linestyle=':', label='segments of the run'
  )


def _plain(axes: charts.Axes) -> None:
  axes.grid(alpha=0.3)
  axes.set_axisbelow(True)
  axes.spines[['top', 'right']].set_visible(False)


_DRAWN = {
  'dimensions': _dimensions,
  'residuals': _residuals,
  'segments': _segments,
  'augmentations': _augmentations,
  'halting': _halting,
  'identifiers': _identifiers,
  'calibration': _calibration,
}
_TITLES = {
  'dimensions': 'Participation ratio of the states',
  'residuals': 'Forward residuals',
  'segments': 'Accuracy after so many segments',
  'augmentations': 'Accuracy by the augmentations that vote',
  'halting': 'All segments, or until the row halts',
  'identifiers': 'The puzzle identifier: right, blank or swapped',
  'calibration': 'Is q_halt a probability?',
}
