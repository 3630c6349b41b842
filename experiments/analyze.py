"""Draws the papers' figures of what happens in a checkpoint.

  hrm-jax analyze --workdir=DIR [--step=N] [--only=NAME,...]

Writes into --out (DIR/analysis/step_N if unset), for each analysis, NAME.png
and NAME.json (the definition, the settings, the numbers), and summary.json:

  dimensions     participation ratio of z_H and z_L, trained against fresh
  residuals      how far each update moves its state
  segments       accuracy after 1, 2, ... segments
  augmentations  accuracy by the number of augmentations that vote
  halting        all segments against each row's own halt
  identifiers    the puzzle identifier blanked, or swapped for another task's
  calibration    sigmoid(q_halt) against the fraction that is exact
  agreement      how far votes agree, against the fraction that is right

What cannot be said of a checkpoint (direct prediction has no segments) is left
out with one line.
"""

import pathlib
import textwrap
import time
from collections.abc import Sequence
from typing import Any

from absl import flags, logging

import hrm_jax.solver
from data_pipelines import files
from data_pipelines.errors import ConfigError
from experiments.analysis import analyses, figures
from experiments.cli import command, launch, shared_flags
from experiments.reporting import charts

_ARGUMENTS = ('workdir', 'step', 'seed', *shared_flags.BOUNDS)
FLAGS = shared_flags.define(*_ARGUMENTS, *shared_flags.JAX)
shared_flags.path(
  'out', None, 'Directory to write, WORKDIR/analysis/step_N if unset.', FLAGS
)
flags.DEFINE_list(
  'only', [], 'Names of the analyses to make, separated by commas, out of '
  f'{", ".join(analyses.ANALYSES)}; all if unset.', flag_values=FLAGS,
)  # fmt: skip


def main(_) -> None:
  run(**shared_flags.values(FLAGS, (*_ARGUMENTS, 'out', 'only')))


def run(
  workdir: pathlib.Path,
  step: int | None = None,
  out: str | pathlib.Path | None = None,
  only: Sequence[str] = (),
  **bounds: Any,
) -> dict[str, Any]:
  """Analyses one checkpoint; the arguments are the command's flags.

  Returns what summary.json holds; `bounds` are those of `analyses.prepare`.

  Raises:
    ConfigError, DataError: there is no such checkpoint, its data cannot be
      used, or a name is unknown.
  """
  unknown = set(only) - set(analyses.ANALYSES)
  if unknown:
    raise ConfigError(
      f'--only={",".join(only)}: unknown: {", ".join(sorted(unknown))}; use '
      f'some of {", ".join(analyses.ANALYSES)}'
    )
  solver = hrm_jax.solver.load(workdir, step)
  subject = analyses.prepare(solver, **bounds)
  directory = files.place(out or workdir / 'analysis' / f'step_{solver.step}')
  facts = {
    'workdir': str(workdir),
    'step': solver.step,
    'data_version': solver.puzzles.version,
    'trained_on': solver.trained_on,
    'leaks': solver.leaks.record(),
  }
  # It must be writable, which is better known before the work.
  with command.writing(directory / 'summary.json') as path:
    files.write_json(path, facts)
  found = {}
  for name, analyse in analyses.ANALYSES.items():
    if only and name not in only:
      continue
    if why := analyses.not_applicable(name, subject):
      logging.info('%s: does not apply: %s', name, why)
      found[name] = {'not_applicable': why}
      continue
    logging.info('%s ...', name)
    begin = time.monotonic()
    finding = analyse(subject)
    record = {
      'analysis': name,
      'definition': analyses.DEFINITIONS[name],
      'settings': {**facts, **subject.measured_with, **finding.settings},
      'numbers': finding.numbers,
    }
    with command.writing(directory / f'{name}.json') as path:
      files.write_json(path, record)
    charts.save(figures.draw(record), directory / f'{name}.png')
    found[name] = {
      'headline': finding.headline,
      'numbers': finding.numbers,
      'seconds': round(time.monotonic() - begin, 1),
    }
  summary = {**facts, 'analyses': found}
  with command.writing(directory / 'summary.json') as path:
    files.write_json(path, summary)
  command.say(
    f'\nAnalyses of step {solver.step} of {workdir}; data: '
    f'{solver.puzzles.version}'
  )
  print(table(found))
  command.say(
    f'Written: {directory}/summary.json, and a .png and .json of each'
  )
  return summary


def table(found: dict[str, dict[str, Any]]) -> str:
  """The findings as plain text, a name and its lines each."""
  width = max(map(len, found)) + 2
  return '\n'.join(
    textwrap.fill(
      one.get('headline') or f'does not apply: {one["not_applicable"]}',
      78,
      initial_indent=f'{name:{width}}',
      subsequent_indent=' ' * width,
    )
    for name, one in found.items()
  )


if __name__ == '__main__':
  command.run(main, FLAGS, launch.start)
