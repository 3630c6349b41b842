"""The figures of `experiments.analyze`, each drawn from its JSON alone."""

import math
from typing import Any

from experiments.reporting import charts

# Each state has a colour of its own in every figure.
_STATES = {'z_H': charts.LINES[1], 'z_L': charts.LINES[0]}
_SCORES = {
  'exact': 'rows exact',
  'accuracy': 'cells',
  'valid': 'valid solutions',
  'pass@1': 'pass@1, by votes',
  'pass@2': 'pass@2, by votes',
}
# Of the answers after all segments so far, which are beside each other.
_CHOSEN = {
  'q': 'the surest so far exact',
  'vote': 'the vote so far exact',
  'possible': 'any so far exact',
}


def draw(record: dict[str, Any]) -> charts.Figure:
  """Draws the figure of an analysis, given the contents of its JSON file."""
  drawing, title, width, height = _FIGURES[record['analysis']]
  figure = charts.figure(width, height)
  settings = record['settings']
  drawing(figure, record['numbers'], settings)
  for axes in figure.axes:
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[['top', 'right']].set_visible(False)
  step, rows = settings['step'], settings['rows']
  figure.suptitle(f'{title} (step {step}, {rows} rows)', fontsize=10)
  return figure


def _dimensions(figure, numbers, settings) -> None:
  curves, bars = figure.subplots(1, 2, width_ratios=(3, 2))
  labels = []
  for network, line in (('trained', '-'), ('fresh', '--')):
    for state, pooled in numbers['participation_ratio'][network].items():
      values = [math.nan if v is None else v for v in pooled['tokens']]
      colour, label = _STATES[state], f'{state}, {network}'
      _line(curves, numbers['tasks'], values, colour, label, linestyle=line)
      face = colour if network == 'trained' else 'white'
      _bars(bars, [len(labels)], [values[-1]], '%.1f', fc=face, ec=colour)
      labels.append(label.replace(', ', '\n'))
  curves.set(xlabel='distinct tasks', ylabel='participation ratio')
  curves.set_ylim(bottom=0)
  curves.legend(fontsize=8)
  bars.set_xticks(range(len(labels)), labels, fontsize=8)
  bars.set_title(f'of {settings["hidden_size"]} dimensions, all tasks', size=9)
  bars.margins(y=0.12)


def _residuals(figure, numbers, settings) -> None:
  axes = figure.add_subplot()
  for state, found in numbers.items():
    colour, quantiles, x = _STATES[state], found['quantiles'], found['update']
    label = f'{state}, mean'
    _line(axes, x, found['mean'], colour, label, markersize=2.5, linewidth=1)
    for low, high, alpha in (('0.05', '0.95', 0.12), ('0.25', '0.75', 0.22)):
      axes.fill_between(
        x, quantiles[low], quantiles[high], color=colour, alpha=alpha,
        linewidth=0, label=f'{state}, {low} to {high}',
      )  # fmt: skip
  updates = len(settings['updates_of_a_segment'])
  _mark_end(axes, updates * settings['halt_max_steps'] + 0.5)
  axes.set_xlabel(f'update ({updates} a segment)')
  axes.set(ylabel='forward residual ‖zⁱ⁺¹ − zⁱ‖', yscale='log')
  figure.legend(loc='outside right center', fontsize=8)


def _segments(figure, numbers, settings) -> None:
  axes = figure.add_subplot()
  _mark_end(axes, settings['halt_max_steps'])
  chosen = numbers.get('chosen', {})
  for colour, (rule, label) in zip(
    reversed(charts.LINES), _CHOSEN.items(), strict=False
  ):
    if rule in chosen:
      _line(
        axes, chosen['segments'], chosen[rule], colour, label, linestyle='--'
      )
  _score_lines(axes, numbers, 'segments')
  axes.set_xlabel('segments')
  axes.xaxis.get_major_locator().set_params(integer=True)


def _augmentations(figure, numbers, _) -> None:
  axes = figure.add_subplot()
  _score_lines(axes, numbers, 'augmentations')
  axes.set(xlabel='augmentations that vote', xscale='log')
  axes.set_xticks(numbers['augmentations'], numbers['augmentations'])
  axes.minorticks_off()


def _halting(figure, numbers, _) -> None:
  scores, segments = figure.subplots(1, 2, width_ratios=(4, 1))
  _score_bars(scores, numbers)
  means = [found['segments'] for found in numbers.values()]
  places = range(len(means))
  _bars(segments, places, means, '%.2f', color=charts.MEASURED)
  segments.set_xticks(places, list(numbers), fontsize=8)
  segments.set_title('mean segments', fontsize=9)
  segments.margins(y=0.12)


def _identifiers(figure, numbers, _) -> None:
  _score_bars(figure.add_subplot(), numbers)


def _calibration(figure, numbers, _) -> None:
  _calibrated(figure, numbers, 'sigmoid(q_halt)', 'rows')


def _agreement(figure, numbers, _) -> None:
  _calibrated(figure, numbers, 'share of the votes', 'test inputs')


def _calibrated(figure, numbers, what, of) -> None:
  axes, histogram = figure.subplots(1, 2)
  pairs = zip(numbers['confidence'], numbers['exact'], strict=True)
  filled = [pair for pair in pairs if pair[1] is not None]
  axes.plot([0, 1], [0, 1], '--', color=charts.QUOTED, label='calibrated')
  axes.plot(*zip(*filled, strict=True), 'o-', color=charts.MEASURED, label='q')
  axes.set(xlabel=f'{what}, mean of the bin', xlim=(0, 1), ylim=(0, 1))
  axes.set_ylabel('fraction of exact answers')
  axes.set_title(f'expected calibration error {numbers["ece"]:.3f}', fontsize=9)
  histogram.stairs(
    numbers['count'], numbers['edges'], fill=True, color=charts.MEASURED
  )
  histogram.set(xlabel=what, ylabel=of)


def _line(axes, x, y, colour, label, **style) -> None:
  style = {'marker': 'o', 'markersize': 3.5, **style}
  axes.plot(x, y, color=colour, label=label, **style)


def _bars(axes, places, heights, form, **style) -> None:
  axes.bar_label(axes.bar(places, heights, **style), fmt=form, fontsize=8)


def _score_lines(axes, numbers, over) -> None:
  for colour, (name, label) in zip(charts.LINES, _SCORES.items(), strict=False):
    if name in numbers:
      _line(axes, numbers[over], numbers[name], colour, label)
  charts.show_percent(axes.yaxis)
  axes.set_ylim(0, 1)
  axes.figure.legend(loc='outside right center', fontsize=8)


def _score_bars(axes, ways) -> None:
  """Draws a group of bars for each score, a bar for each way."""
  names = [name for name in _SCORES if name in next(iter(ways.values()))]
  width = 0.8 / len(ways)
  for number, (way, found) in enumerate(ways.items()):
    places = [x + (number + 0.5) * width - 0.4 for x in range(len(names))]
    heights = [found[name] for name in names]
    colour = charts.LINES[number]
    drawn = axes.bar(places, heights, width, color=colour, label=way)
    axes.bar_label(drawn, [f'{100 * h:.1f}' for h in heights], fontsize=7)
  axes.set_xticks(range(len(names)), [_SCORES[n] for n in names], fontsize=8)
  charts.show_percent(axes.yaxis)
  axes.set_ylim(0, 1)
  axes.legend(fontsize=8)


def _mark_end(axes, place) -> None:
  axes.axvline(place, color=charts.QUOTED, ls=':', label='segments of the run')


# By name of the analysis: function, title, width and height in inches.
_FIGURES = {
  'dimensions': (_dimensions, 'Participation ratio of the states', 8.0, 3.6),
  'residuals': (_residuals, 'Forward residuals', 8.0, 3.6),
  'segments': (_segments, 'Accuracy after so many segments', 7.0, 3.8),
  'augmentations': (
    _augmentations, 'Accuracy by the augmentations that vote', 7.0, 3.8
  ),
  'halting': (_halting, 'All segments, or until the row halts', 7.0, 3.4),
  'identifiers': (
    _identifiers, 'The puzzle identifier: right, blank or swapped', 7.0, 3.4
  ),
  'calibration': (_calibration, 'Is q_halt a probability?', 7.0, 3.6),
  'agreement': (_agreement, 'Are votes that agree right?', 7.0, 3.6),
}  # fmt: skip
