"""What others published, and beside it what runs of this code measured.

  python -m experiments.leaderboard [--runs=DIR,DIR,...] [--out=DIR]

Prints two tables in Markdown. The first has every published result, quoted,
with its source, and those runs that are the paper's experiment: its data, all
of its test puzzles, its length of training. All other runs are in the second.
Runs that differ in their seed alone make one row: their mean and spread.

With --out, DIR gets the same as leaderboard.md, and a chart, leaderboard.png.
"""

import pathlib
import statistics
import string
import textwrap
from collections.abc import Sequence
from typing import NamedTuple

from data_pipelines import files
from data_pipelines.errors import ConfigError
from experiments.cli import data_flags, launch
from experiments.drawing import charts
from experiments.reporting import paper_scale, runs
from experiments.reporting import published_results as published
from experiments.reporting.paper_scale import PaperSet
from experiments.reporting.runs import Group
from hrm_jax.workdir import checkpoints

_PASS = 'eval/pass@2/'
_EXACT = 'eval/exact'
# Rules of two attempts, as `voting.Score` has them.
_RULES = {
  'outputs': 'test outputs (Kaggle)',
  'tasks': 'tasks (ARC Prize, TRM)',
  'whole_tasks': 'whole tasks (HRM notebook)',
}

_PAPER_TITLE = "Published, and measured at the paper's scale"
_SMALL_TITLE = "Measured, not at the paper's scale or not trained here"
_PAPER_TEXT = (
  'Percent solved. "Quoted" is what the authors published, not measured here. '
  'ARC: in two attempts, on the public evaluation set. Measured on ARC: the '
  'mean over test outputs (Kaggle), of TRM the mean over tasks (ARC Prize, '
  'TRM); each is given by all rules below. Puzzle embeddings are not among the '
  'parameters.'
)
_SMALL_TEXT = (
  'Percent solved. Not to be compared with the table above: other data, parts '
  'of them, other settings, shorter training, or checkpoints of others, as '
  'said below. ARC: in two attempts, the '
  'mean over test outputs (Kaggle). Puzzle embeddings are not among the '
  'parameters.'
)


class Measured(NamedTuple):
  """What runs that differ in their seed alone gave.

  Attributes:
    group: the runs, all with scores of the same step.
    paper: the experiment of the paper that they are; None for none.
    reason: why they are none.
    metric: of the scores.
  """

  group: Group
  paper: PaperSet | None
  reason: str
  metric: str

  @property
  def percent(self) -> list[float]:
    """The metric of each run."""
    return self.percent_of(self.metric)

  def percent_of(self, metric: str) -> list[float]:
    """Any metric of each run."""
    return [100 * run.scores.metrics[metric] for run in self.group.runs]

  @property
  def held_out(self) -> str:
    """The puzzles that were scored."""
    run = self.group.runs[0]
    version = run.scores.data_version.rpartition('evaluate ')[2]
    is_arc = self.metric.startswith(_PASS)
    return f'{version}, canvas {run.config.data.canvas}' if is_arc else version

  @property
  def metric_name(self) -> str:
    """The metric in words."""
    if self.metric == _EXACT:
      return 'exact'
    return f'pass@2, {_RULES[self.metric.removeprefix(_PASS)]}'


def measure(found: Sequence[runs.Run]) -> list[Measured]:
  """The scores of runs, those that differ in their seed alone together.

  Raises:
    ConfigError: a run has no scores, or they cannot be used.
  """
  papers = {run.directory: paper_scale.find(run) for run in found}

  def scored(run: runs.Run):
    scores = run.scores
    same = (scores.step, scores.halting, scores.data_version, scores.trained_on)
    return same, scores.rows, _leaks(run), papers[run.directory]

  out = []
  for group in runs.group(found, scored):
    run = group.runs[0]
    paper, reason = papers[run.directory]
    metric, needed = _EXACT, [_EXACT]
    if f'{_PASS}outputs' in run.scores.metrics:
      # The rule of TRM's paper; the other rules are told beside it.
      own = 'tasks' if paper and run.system.startswith('TRM') else 'outputs'
      metric, needed = _PASS + own, [_PASS + rule for rule in _RULES]
    for run in group.runs:
      for name in needed:
        if name not in run.scores.metrics:
          raise ConfigError(
            f'{run.scores.path}: has no {name}, as where no held-out answer is '
            'known; leave this run out of --runs'
          )
    out.append(Measured(group, paper, reason, metric))
  return out


def report(measured: Sequence[Measured]) -> str:
  """Both tables in Markdown, with their notes and sources."""
  at_scale = [one for one in measured if one.paper]
  small = [one for one in measured if not one.paper]
  parts = [f'## {_PAPER_TITLE}', textwrap.fill(_PAPER_TEXT, 80)]
  parts += [_paper_table(at_scale), _quoted_notes()]
  if at_scale:
    parts.append(_details(at_scale, 1))
  else:
    parts.append("No run was given that is at the paper's scale.")
  parts.append(f'## {_SMALL_TITLE}')
  if not small:
    given = 'No other run was given' if at_scale else 'No run was given'
    parts.append(f'{given}; --runs=DIR,DIR adds some.')
    return '\n\n'.join(parts)
  parts.append(textwrap.fill(_SMALL_TEXT, 80))
  number = 1 + len(at_scale)
  for (held_out, metric), some in _panels(small).items():
    parts.append(f'Held out: {held_out}\n\nMetric: {metric}')
    parts += [_small_table(some, number), _details(some, number)]
    number += len(some)
  return '\n\n'.join(parts)


def _paper_table(measured: Sequence[Measured]) -> str:
  """Quoted rows, each system's measured ones after them."""
  notes = _letters()
  rows = []
  for system in _quoted_systems():
    figures = [f for f in published.FIGURES if f.system == system]
    cells = {f.benchmark: f.text + notes.get(f, '') for f in figures}
    source = published.SOURCES[figures[0].source].split(',')[0]
    rows.append((system, figures[0].parameters, cells, f'quoted, {source}'))
  labels = _labels(measured)
  for number, (label, one) in enumerate(zip(labels, measured, strict=True), 1):
    count = len(one.group.runs)
    origin = f'measured, {count} seed{"s" * (count > 1)} [{number}]'
    spread = f' ({_spread(one)})' if count > 1 else ''
    cells = {one.paper.benchmark: _mean(one) + spread}
    row = (label, _parameters(one), cells, origin)
    after = [i for i, r in enumerate(rows) if r[0].startswith(one.group.system)]
    rows.insert(after[-1] + 1 if after else len(rows), row)
  return _table(
    ['system', 'parameters', *published.BENCHMARKS, 'figure'],
    [
      [name, size, *(cells.get(b, '') for b in published.BENCHMARKS), origin]
      for name, size, cells, origin in rows
    ],
  )


def _labels(measured: Sequence[Measured]) -> list[str]:
  """Names of rows, told apart where they are of one benchmark."""
  labels = []
  for one in measured:
    beside = [m.group for m in measured if m.paper == one.paper]
    labels.append(runs.labels(beside)[beside.index(one.group)])
  return labels


def _small_table(measured: Sequence[Measured], first: int) -> str:
  labels = runs.labels([one.group for one in measured])
  rows = []
  for number, (label, one) in enumerate(
    zip(labels, measured, strict=True), first
  ):
    rows.append(
      [
        f'[{number}]',
        label,
        _parameters(one),
        _mean(one),
        _spread(one),
        str(len(one.group.runs)),
        ', '.join(map(str, one.group.seeds)),
        f'{one.group.runs[0].scores.step:,}',
        _leaks(one.group.runs[0]),
      ]
    )
  return _table(
    [
      '', 'system', 'parameters', 'mean', 'min … max', 'runs', 'seeds',
      'steps', 'leaking answers',
    ],
    rows,
  )  # fmt: skip


def _details(measured: Sequence[Measured], first: int) -> str:
  """What a row has no room for."""
  lines = []
  for number, one in enumerate(measured, first):
    run = one.group.runs[0]
    scores = run.scores
    facts = [f'data: {run.data_version}']
    if one.metric.startswith(_PASS):
      by_rule = (
        f'{name} {statistics.mean(one.percent_of(_PASS + rule)):.1f}'
        for rule, name in _RULES.items()
      )
      facts.append(f'pass@2 by rule: {", ".join(by_rule)}')
    facts.append(f'halting: {scores.halting}')
    if one.paper:
      if unlike := paper_scale.unlike(run, one.paper):
        facts.append(f'unlike the published settings: {", ".join(unlike)}')
      seeds = ', '.join(map(str, one.group.seeds))
      facts.append(f'step: {scores.step:,}; seeds: {seeds}')
      facts.append(f'leaking answers: {_leaks(run)}')
    else:
      if run.changes:
        facts.append(f"unlike the system's for ARC: {', '.join(run.changes)}")
      facts.append(f'not in the first table: {one.reason}')
    where = ', '.join(str(run.directory) for run in one.group.runs)
    lines.append(f'* [{number}] {"; ".join(facts)}; runs: {where}')
  return '\n'.join(lines)


def _quoted_notes() -> str:
  lines = (
    f'*{letter} {figure.system}, {figure.benchmark}: {figure.note}'
    for figure, letter in _letters().items()
  )
  sources = (f'* {source}' for source in published.SOURCES.values())
  return '\n'.join(['Notes:', '', *lines, '', 'Sources:', '', *sources])


def _letters() -> dict[published.Figure, str]:
  """The mark of each figure that has a note."""
  noted = [figure for figure in published.FIGURES if figure.note]
  return {
    figure: f' ({letter})'
    for figure, letter in zip(noted, string.ascii_lowercase, strict=False)
  }


def _quoted_systems() -> list[str]:
  return list(dict.fromkeys(figure.system for figure in published.FIGURES))


def _panels(
  measured: Sequence[Measured],
) -> dict[tuple[str, str], list[Measured]]:
  """What may stand in one table and on one axis."""
  panels = {}
  for one in measured:
    panels.setdefault((one.held_out, one.metric_name), []).append(one)
  return panels


def _mean(one: Measured) -> str:
  return f'{statistics.mean(one.percent):.1f}'


def _spread(one: Measured) -> str:
  if len(one.percent) == 1:
    return '–'
  return f'{min(one.percent):.1f} … {max(one.percent):.1f}'


def _parameters(one: Measured) -> str:
  count = one.group.parameters
  return 'no checkpoint' if count is None else f'{count:,}'


def _leaks(run: runs.Run) -> str:
  """How many held-out answers were trained on, and by which leave."""
  if run.scores.trained_on.startswith(checkpoints.UNKNOWN_DATA):
    return 'not known'
  answers = run.scores.leaks['answers']
  if not answers:
    return 'none'
  leave = 'allow_leaks' if run.scores.leaks['allow_leaks'] else 'known'
  return f'{answers} ({leave})'


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  """A Markdown table that is one for the eye too."""
  # A bar would end the cell.
  cells = [
    [cell.replace('|', r'\|') for cell in row] for row in [header, *rows]
  ]
  widths = [max(3, *map(len, column)) for column in zip(*cells, strict=True)]
  cells.insert(1, ['-' * width for width in widths])
  return '\n'.join(
    '| '
    + ' | '.join(c.ljust(w) for c, w in zip(row, widths, strict=True))
    + ' |'
    for row in cells
  )


class _Bar(NamedTuple):
  """A bar of the chart, in percent."""

  label: str
  value: float
  low: float
  high: float
  text: str
  colour: str


# Everything below is in inches.
_WIDTH, _BAR, _HEAD, _TITLE = 14.0, 0.42, 1.0, 0.9


def draw(measured: Sequence[Measured]) -> charts.Figure:
  """Bars: a panel for each benchmark, and below, apart, the small scale."""
  at_scale = [one for one in measured if one.paper]
  upper = []
  for benchmark in published.BENCHMARKS:
    bars = [
      _Bar(
        textwrap.fill(f.system, 34),
        f.percent,
        f.percent,
        f.percent,
        f.text,
        charts.QUOTED,
      )
      for f in published.FIGURES
      if f.benchmark == benchmark
    ]
    here = [one for one in at_scale if one.paper.benchmark == benchmark]
    upper.append((benchmark, [*bars, *_bars(here, charts.MEASURED)]))
  small = _panels([one for one in measured if not one.paper])
  lower = [
    (
      textwrap.fill(f'{metric}: {held_out}', 54),
      _bars(some, charts.SMALL_SCALE),
    )
    for (held_out, metric), some in small.items()
  ]
  heights = [_height(upper)] + [_height(lower)] * bool(lower)
  figure = charts.figure(_WIDTH, sum(heights))
  parts = figure.subfigures(len(heights), 1, height_ratios=heights)
  parts = [parts] if len(heights) == 1 else list(parts)
  sources = (source.split(',')[0] for source in published.SOURCES.values())
  legend = [(f'quoted, not measured here: {", ".join(sources)}', charts.QUOTED)]
  if at_scale:
    legend.append(('measured here', charts.MEASURED))
  _draw_part(parts[0], f'{_PAPER_TITLE} (percent)', upper, legend)
  if lower:
    title = f'{_SMALL_TITLE} (percent): not to be compared with the above'
    legend = [('measured here', charts.SMALL_SCALE)]
    _draw_part(parts[1], title, lower, legend)
  return figure


def _bars(measured: Sequence[Measured], colour: str) -> list[_Bar]:
  bars = []
  labels = runs.labels([one.group for one in measured])
  for label, one in zip(labels, measured, strict=True):
    count = len(one.percent)
    text = _mean(one)
    text += f' ({_spread(one)}), n = {count}' if count > 1 else ', n = 1'
    size = charts.count(one.group.parameters)
    step = one.group.runs[0].scores.step
    bars.append(
      _Bar(
        f'{textwrap.fill(label, 34)}\n{size}, {step:,} steps',
        statistics.mean(one.percent),
        min(one.percent),
        max(one.percent),
        text,
        colour,
      )
    )
  return bars


def _rows(panels: Sequence[tuple[str, Sequence[_Bar]]]) -> list[int]:
  """The most bars in each row of two panels."""
  counts = [len(bars) for _, bars in panels]
  return [max(counts[i : i + 2]) for i in range(0, len(counts), 2)]


def _height(panels: Sequence[tuple[str, Sequence[_Bar]]]) -> float:
  return _TITLE + sum(_HEAD + _BAR * count for count in _rows(panels))


def _draw_part(part, title: str, panels, legend) -> None:
  part.suptitle(title, fontsize=14, fontweight='bold')
  rows = _rows(panels)
  ratios = [_HEAD + _BAR * count for count in rows]
  grid = part.add_gridspec(len(rows), 2, height_ratios=ratios)
  for index, (heading, bars) in enumerate(panels):
    axes = part.add_subplot(grid[index // 2, index % 2])
    # As many places in each panel of a row: bars of one width.
    _draw_panel(axes, heading, bars, rows[index // 2])
  handles = [charts.swatch(colour, label) for label, colour in legend]
  part.legend(handles=handles, loc='outside lower center', ncols=len(handles))


def _draw_panel(axes, heading: str, bars: Sequence[_Bar], places: int) -> None:
  for place, bar in enumerate(bars):
    axes.barh(place, bar.value, height=0.62, **charts.bar_style(bar.colour))
    if bar.low < bar.high:
      axes.errorbar(
        bar.value,
        place,
        xerr=[[bar.value - bar.low], [bar.high - bar.value]],
        color=charts.INK,
        capsize=4,
      )
    axes.annotate(
      bar.text,
      (bar.high, place),
      xytext=(6, 0),
      textcoords='offset points',
      va='center',
      fontsize=9,
    )
  axes.set_yticks(
    range(len(bars)),
    [bar.label for bar in bars],
    fontsize=9,
  )
  axes.set_ylim(places - 0.4, -0.6)
  # Room for the text behind the longest bar.
  end = 1.7 * max([1.0, *(bar.high for bar in bars)])
  axes.set_xlim(0, end)
  axes.set_xticks([tick for tick in axes.get_xticks() if tick <= 100])
  axes.set_xlim(0, end)
  axes.set_title(heading, fontsize=10, loc='left')
  axes.spines[['top', 'right']].set_visible(False)


def main(_) -> None:
  measured = measure(runs.read_all(runs.RUNS.value))
  text = report(measured)
  print(text)
  if not data_flags.OUT.value:
    return
  directory = pathlib.Path(data_flags.OUT.value)
  chart = directory / 'leaderboard.png'
  with charts.writing(directory / 'leaderboard.md') as path:
    files.write_text(path, f'# Leaderboard\n\n{text}\n')
  charts.save(draw(measured), chart)
  print(f'\nWritten: {directory}/leaderboard.md, {chart.name}')


if __name__ == '__main__':
  launch.run(main)
