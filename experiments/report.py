"""Writes what there is to know of a run into one HTML file.

  hrm-jax report --workdir=DIR [--step=N] [--out=FILE.html]
      [--max_tasks=N]

The file opens from disk and asks for nothing else: training curves, scores with
what they mean, what leaks, the analyses that were made, the settings, and
puzzles with their answers as they form. See docs/report.md. It goes to
DIR/report/step_N.html if --out is unset. Scores are those of
`experiments.evaluate`, figures those of `experiments.analyze`: where they were
not made, the report says by which command they are.
"""

import base64
import hashlib
import html
import json
import pathlib
import re
from typing import Any

from absl import flags, logging

import hrm_jax.solver
from data_pipelines import files
from data_pipelines import leaks as leak_check
from data_pipelines.arc import voting
from data_pipelines.errors import ConfigError
from data_pipelines.puzzle_set import PuzzleSet
from experiments.cli import command, launch, shared_flags
from experiments.reporting import gallery, runs
from experiments.reporting import published_results as published
from experiments.reporting import training_curves as curves
from hrm_jax.settings import Settings, flat
from hrm_jax.solver import Solver
from hrm_jax.workdir import checkpoints

FLAGS = shared_flags.define('workdir', 'step', *shared_flags.JAX)
shared_flags.path(
  'out', None, 'HTML file to write, WORKDIR/report/step_N.html if unset.', FLAGS
)
flags.DEFINE_integer(
  'max_tasks', 100, 'Number of puzzles to show at most, spread evenly over '
  'those that were scored.', lower_bound=1, flag_values=FLAGS,
)  # fmt: skip
_TEMPLATE = pathlib.Path(gallery.__file__).with_name('report.html')


def main(_) -> None:
  run(FLAGS.workdir, FLAGS.step, FLAGS.out, FLAGS.max_tasks)


def run(
  workdir: pathlib.Path,
  step: int | None = None,
  out: str | pathlib.Path | None = None,
  max_tasks: int = 100,
) -> pathlib.Path:
  """Writes the report of one checkpoint; the arguments are the flags.

  Raises:
    ConfigError, DataError: there is no such checkpoint, its data cannot be
      used, or a file of the run is damaged.
  """
  if out and pathlib.Path(out).suffix != '.html':
    raise ConfigError(f'--out={out} must end in .html')
  solver = hrm_jax.solver.load(workdir, step)
  path = files.place(out or workdir / 'report' / f'step_{solver.step}.html')
  with command.writing(path):
    pass
  contents = gather(solver, max_tasks)
  if not contents['scores']:
    again = contents['command']
    logging.warning('No scores of this step: %s makes them', again)
  text = render(contents)
  with command.writing(path):
    files.write_text(path, text)
  command.say(f'Written: {path} ({len(text.encode()) / 2**20:.1f} MiB)')
  return path


def gather(solver: Solver, max_tasks: int) -> dict[str, Any]:
  """All that the report shows, as JSON takes it."""
  workdir, step = solver.origin, solver.step
  one = runs.read(workdir)
  evaluate = command.typed('experiments.evaluate')
  again = f'{evaluate} --workdir={workdir} --step={step}'
  # All that is held out, as the run halts; else another evaluation.
  paths = [
    *(workdir / 'evaluation').glob(f'step_{step}/scores.json'),
    *sorted((workdir / 'evaluation').glob(f'step_{step}_*/scores.json')),
  ]
  scores = runs.read_scores(paths[0], f'run {again} again') if paths else None
  puzzles = solver.puzzles
  leaks = scores.leaks if scores else solver.leaks.record()
  # What is damaged is told before the traces are made.
  charts_shown = curves.collect(one.metrics)
  analyses = _analyses(workdir / 'analysis' / f'step_{step}')
  found = gallery.gather(solver, scores, max_tasks)
  known = leak_check.recorded(leaks)
  leaks = {**leaks, 'names': sorted({leak.entry for leak in known})}
  leaking = {leak.held_out for leak in known}
  for entry in found['entries']:
    entry['leaks'] = entry['name'] in leaking
  usual = flat(Settings.published(one.config.model.kind).to_dict())
  rows, width = solver.shapes.puzzle_table.shape
  table = f'{rows:,} rows × {width:,}, beside these' if width else 'none'
  version = scores.data_version if scores else puzzles.version
  return {
    'name': workdir.absolute().name,
    'workdir': str(workdir),
    'step': step,
    'command': again,
    'facts': [
      ['System', one.system],
      ['Trained parameters', f'{one.parameters:,}'],
      ['Puzzle embeddings', table],
      ['Checkpoint', f'step {step:,}'],
      ['Seed', str(one.config.seed)],
      ['Trained on', solver.trained_on],
      ['Scored on', version],
      ['Puzzles', puzzles.describe().removeprefix(f'{puzzles.version}: ')],
      ['Written by', f'hrm_jax {hrm_jax.__version__}'],
    ],
    'scores': scores and _told(one, scores, puzzles, found),
    'leaks': leaks,
    'unknown_data': solver.trained_on.startswith(checkpoints.UNKNOWN_DATA),
    'charts': charts_shown,
    'analyses': analyses,
    # Each with its value, and the published one where that differs.
    'settings': [
      [key, json.dumps(v), '' if v == usual[key] else json.dumps(usual[key])]
      for key, v in sorted(flat(one.config.to_dict()).items())
    ],
    'kind': 'tasks' if puzzles.domain is None else 'puzzles',
    'nearly': gallery.NEARLY,
    **found,
  }


def render(contents: dict[str, Any]) -> str:
  """The HTML file: the template with these contents, and nothing loaded.

  Its policy forbids all requests, and all scripts but the template's own.
  """
  shared = {
    'STYLE': _TEMPLATE.with_name('look.css').read_text(),
    # In a page of one file there are no modules.
    'GRIDS': re.sub(
      '(?m)^export ', '', _TEMPLATE.with_name('grids.mjs').read_text()
    ),
  }
  template = _filled(_TEMPLATE.read_text(), shared)
  (script,) = re.findall(r'<script>(.*?)</script>', template, re.DOTALL)
  digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
  # No name can end the element that it stands in.
  data = json.dumps(contents, allow_nan=False).replace('<', r'\u003c')
  filled = {
    'POLICY': "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
    f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'",
    'TITLE': html.escape(f'{files.shown(contents["name"])}: HRM run report'),
    'DATA': data,
  }
  return _filled(template, filled)


def _filled(template: str, parts: dict[str, str]) -> str:
  return re.sub(rf'@({"|".join(parts)})@', lambda m: parts[m[1]], template)


def _told(one: runs.Run, scores: runs.Scores, *of: Any) -> dict[str, Any]:
  try:
    return _scores(one, scores, *of)
  except KeyError as error:
    raise ConfigError(
      f'{scores.path}: has no {error.args[0]}; evaluate again'
    ) from None


def _scores(
  one: runs.Run, scores: runs.Scores, puzzles: PuzzleSet, shown: dict[str, Any]
) -> dict[str, Any]:
  """The scores of an evaluation, each with its denominator."""
  directory, metrics = scores.path.parent, scores.metrics
  found = {
    'where': f'evaluation/{directory.name}',
    'whole': directory.name == f'step_{scores.step}',
    'rows': scores.rows,
    'halting': scores.halting,
    'segments': metrics['eval/steps'],
    'exact': metrics.get('eval/exact'),
    'accuracy': metrics.get('eval/accuracy'),
    'copied_cells': shown['copied_cells'],
    'valid': metrics.get('eval/valid'),
    'puzzles': sum(shown['counts'].values()),
    'passes': [],
    'published': _published(one, scores),
  }
  if f'eval/pass@1/{voting.Score._fields[0]}' not in metrics:
    return found
  names = set(json.loads((directory / 'predictions.json').read_bytes()))
  tasks = [task for task in puzzles.evaluation_tasks if task.name in names]
  copied = voting.copy_baseline(tasks)[1]
  found['scored'] = [tally.scored for tally in copied]
  found['copied'] = copied.outputs.rate
  found['passes'] = [
    [k, [metrics[f'eval/pass@{k}/{rule}'] for rule in voting.Score._fields]]
    for k in voting.ATTEMPTS
    if f'eval/pass@{k}/whole_tasks' in metrics
  ]
  return found


def _published(one: runs.Run, scores: runs.Scores) -> dict[str, Any]:
  """The published results of this experiment, or why there are none."""
  if scores.path.parent.name != f'step_{scores.step}':
    return {'reason': 'only a part, or in another way than the run is scored'}
  if one.scores.path != scores.path:
    return {'reason': f'step {one.scores.step} is the newest one scored'}
  benchmark, remarks = published.experiment_of(one)
  if benchmark is None:
    return {'reason': '; '.join(remarks)}
  return {
    'benchmark': benchmark,
    'figures': [
      [f.system, f.parameters, f.text, published.SOURCES[f.source], f.note]
      for f in published.FIGURES
      if f.benchmark == benchmark
    ],
  }


def _analyses(directory: pathlib.Path) -> list[dict[str, str]]:
  """The figures that `experiments.analyze` wrote, with what they show."""
  path = directory / 'summary.json'
  if not path.exists():
    return []
  fix = f'run {command.typed("experiments.analyze")} again'
  found = []
  try:
    summary = files.parse_json(files.read(path), path)
    for name, analysis in summary.get('analyses', {}).items():
      if 'headline' not in analysis:
        continue
      if not name.isidentifier():
        raise KeyError(name)
      path = directory / f'{name}.json'
      record = files.parse_json(files.read(path), path)
      image = base64.b64encode(files.read(directory / f'{name}.png'))
      found.append(
        {
          'name': name,
          'headline': analysis['headline'],
          'definition': record['definition']['words'],
          'image': image.decode(),
        }
      )
  except (AttributeError, KeyError, TypeError) as error:
    raise ConfigError(f'{path}: damaged ({error!r}); {fix}') from None
  return found


if __name__ == '__main__':
  command.run(main, FLAGS, launch.start)
