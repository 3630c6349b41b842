"""Tables of what runs measured and, apart from it, of what others published."""

import statistics
import string
from collections.abc import Sequence
from typing import Any, NamedTuple

from data_pipelines.errors import ConfigError
from experiments.reporting import published_results as published
from experiments.reporting import runs
from hrm_jax.workdir import checkpoints

_PASS = 'eval/pass@2/'
# Rules to count two attempts by, see `voting.Score`.
RULES = {
  'outputs': 'test outputs (Kaggle)',
  'tasks': 'tasks (ARC Prize, TRM)',
  'whole_tasks': 'whole tasks (HRM notebook)',
}
_HEADER = (
  '', 'system', 'parameters', 'mean', 'min … max', 'runs', 'seeds', 'steps',
  'leaking answers',
)  # fmt: skip
_MEASURED = (
  'Percent solved, mean over runs that differ in their seed alone. Parameters '
  'are\nwithout puzzle embeddings.'
)
_TO_RUN = (
  'To run one on ARC-1 (another SPEC or config: other puzzles; language models '
  'need a\nkey or a server of their own, and none of theirs was run here)'
)
_QUOTED = (
  'Percent solved, as the authors published it; nothing of it was measured '
  'here. Only\nrows whose note says "published scale" were measured on the '
  'same data, with the\nsame model and length of training. Attempts (p@k) and '
  'training set (1k, full) stand\nbeside a figure where they are told; † is '
  'from an abstract or a readme, not from a table\nof the paper. "Trained on '
  'the task" means at test time; "alone", on nothing else. Where none is '
  'quoted, none is\nknown here; ‡ cannot be run.'
)


class Measured(NamedTuple):
  """The result of runs that differ in their seed alone.

  `percent` is the metric of each run, `by_rule` the mean of each rule, for ARC
  alone; `benchmark` is the published experiment that the runs are, and `notes`
  are what a row of the table has no room for.
  """

  label: str
  held_out: str
  metric: str
  percent: list[float]
  by_rule: dict[str, float]
  parameters: int | None
  seeds: list[int]
  step: int
  halting: str
  leaking: str
  data_version: str
  benchmark: str | None
  notes: list[str]
  runs: list[str]

  def record(self) -> dict[str, Any]:
    """The result as JSON, with the mean, least and greatest percentage."""
    summary = {f.__name__: f(self.percent) for f in (statistics.mean, min, max)}
    return {**self._asdict(), **summary}


def measure(found: Sequence[runs.Run]) -> list[Measured]:
  """Collects the scores of runs; those that differ in seed alone are one."""
  scale = {run.directory: published.experiment_of(run) for run in found}

  def scored(run: runs.Run):
    scores = run.scores
    same = (scores.step, scores.halting, scores.data_version, scores.trained_on)
    return same, scores.rows, _leaking(run), scale[run.directory]

  return [
    _measured(label, group, *scale[group[0].directory])
    for label, group in runs.labelled(found, scored, _held_out)
  ]


def _measured(
  label: str, group: runs.Group, benchmark: str | None, remarks: Sequence[str]
) -> Measured:
  run = group[0]

  def percent(metric: str) -> list[float]:
    for one in group:
      if metric not in one.scores.metrics:
        raise ConfigError(
          f'{one.scores.path}: has no {metric}, as where no held-out answer is '
          'known; leave this run out of --runs'
        )
    return [100 * one.scores.metrics[metric] for one in group]

  is_arc = _is_arc(run)
  if benchmark:
    notes = [f'published scale: {benchmark}']
    if remarks:
      notes.append(f'unlike the published settings: {", ".join(remarks)}')
  else:
    notes = [f'not at published scale: {"; ".join(remarks)}']
    if run.changes:
      notes.append(f"unlike the system's for ARC: {', '.join(run.changes)}")
  return Measured(
    label=label,
    held_out=_held_out(run),
    metric=f'pass@2, {RULES["outputs"]}' if is_arc else 'exact',
    percent=percent(f'{_PASS}outputs' if is_arc else 'eval/exact'),
    by_rule={
      name: statistics.mean(percent(_PASS + rule))
      for rule, name in RULES.items()
      if is_arc
    },
    parameters=runs.parameters(group),
    seeds=[one.config.seed for one in group],
    step=run.scores.step,
    halting=run.scores.halting,
    leaking=_leaking(run),
    data_version=run.data_version,
    benchmark=benchmark,
    notes=notes,
    runs=[str(one.directory) for one in group],
  )


def _held_out(run: runs.Run) -> str:
  canvas = f', canvas {run.config.data.canvas}' if _is_arc(run) else ''
  return run.held_out + canvas


def _is_arc(run: runs.Run) -> bool:
  return f'{_PASS}outputs' in run.scores.metrics


def _leaking(run: runs.Run) -> str:
  """How many held-out answers were trained on, and by whose leave."""
  if run.scores.trained_on.startswith(checkpoints.UNKNOWN_DATA):
    return 'not known'
  answers = run.scores.leaks['answers']
  if not answers:
    return 'none'
  leave = 'allow_leaks' if run.scores.leaks['allow_leaks'] else 'known'
  return f'{answers} ({leave})'


def report(measured: Sequence[Measured], more: Sequence[str] = ()) -> str:
  """The tables in Markdown, with notes and sources; `more` was measured too."""
  parts = ['## Measured here', _MEASURED]
  tables: dict[tuple[str, str], list[tuple[int, Measured]]] = {}
  for numbered in enumerate(measured, 1):
    key = numbered[1].held_out, numbered[1].metric
    tables.setdefault(key, []).append(numbered)
  for (held_out, metric), some in tables.items():
    parts.append(f'Held out: {held_out}\n\nMetric: {metric}')
    parts.append(table(_HEADER, [_row(*numbered) for numbered in some]))
    parts.append('\n'.join(_note(*numbered) for numbered in some))
  if not measured and not more:
    parts.append('No run was given; --runs=DIR,DIR adds some.')
  return '\n\n'.join([*parts, *more, quoted()])


def quoted() -> str:
  """The published figures as a table in Markdown, with rules and sources."""
  noted = [figure for figure in published.FIGURES if figure.note]
  letters = {
    figure: f' ({letter})'
    for figure, letter in zip(noted, string.ascii_lowercase, strict=False)
  }
  rows = []
  for system in published.SYSTEMS:
    figures = [f for f in published.FIGURES if f.system == system.name]
    cells = {f.benchmark: f.text + letters.get(f, '') for f in figures}
    rows.append(
      [
        system.name + ' ‡' * (system.name in published.UNAVAILABLE),
        system.parameters,
        system.test_time_training,
        *(cells.get(benchmark, '') for benchmark in published.BENCHMARKS),
        published.SOURCES.get(system.source, '').split(', ')[0],
      ]
    )
  header = [
    *('system', 'parameters', 'trained on the task'),
    *(*published.BENCHMARKS, 'source'),
  ]
  rules = (f'* {name}: {rule}' for name, rule in published.BENCHMARKS.items())
  notes = (
    f'*{letter} {figure.system}, {figure.benchmark}: {figure.note}'
    for figure, letter in letters.items()
  )
  commands = [f'* {name}: `{run}`' for name, run in published.COMMANDS.items()]
  commands += [f'* ‡ {x}: {why}' for x, why in published.UNAVAILABLE.items()]
  sources = (f'* {source}' for source in published.SOURCES.values())
  parts = ['## Published, quoted', _QUOTED, table(header, rows)]
  for title, lines in (
    ('Rules', rules), ('Notes', notes), (_TO_RUN, commands),
    ('Sources', sources),
  ):  # fmt: skip
    parts += [f'{title}:', '\n'.join(lines)]
  return '\n\n'.join(parts)


def _row(number: int, one: Measured) -> list[str]:
  count = len(one.percent)
  return [
    f'[{number}]',
    one.label,
    'no checkpoint' if one.parameters is None else f'{one.parameters:,}',
    f'{statistics.mean(one.percent):.1f}',
    f'{min(one.percent):.1f} … {max(one.percent):.1f}' if count > 1 else '–',
    str(count),
    ', '.join(map(str, one.seeds)),
    f'{one.step:,}',
    one.leaking,
  ]


def _note(number: int, one: Measured) -> str:
  facts = [f'data: {one.data_version}', f'halting: {one.halting}', *one.notes]
  if one.by_rule:
    rules = (f'{name} {mean:.1f}' for name, mean in one.by_rule.items())
    facts.append(f'pass@2 by rule: {", ".join(rules)}')
  return f'* [{number}] {"; ".join(facts)}; runs: {", ".join(one.runs)}'


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  """Makes a table in Markdown whose columns are aligned."""
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
