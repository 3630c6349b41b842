"""Checks the devices of this machine, and writes a report.

  hrm-jax device_check [PART ...] [--out=DIR]

The parts, all of them where none is named:

  parity      golden files of the published code, replayed
  attention   every attention for these devices against plain XLA's
  steps       time, utilisation and memory of training steps, and what fits
  repeat      the same seed twice, bit for bit
  calls       steps_per_call of 1, 4 and 16

On an accelerator the sizes are the published ones, and all of it may take an
hour; on a CPU they are small, and it takes minutes. Each check is a process of
its own, so that one that crashes or hangs ends alone. The report and the same
as JSON, which are to be sent in, are written anew after each check. The exit
code is 1 where one failed.
"""

import datetime
import json
import os
import pathlib
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from absl import flags, logging

import hrm_jax
from data_pipelines import files
from data_pipelines.errors import ConfigError
from data_pipelines.progress import Progress
from experiments.cli import command, shared_flags
from hrm_jax.parallel import hardware

FLAGS = shared_flags.define()
shared_flags.path(
  'out', 'device_check', 'Directory that gets the report and the JSON.', FLAGS
)
flags.DEFINE_multi_string(
  'golden', None, 'Golden .npz file for the part `parity`, which may be given '
  "several times; unset, those of this repository's tests.", flag_values=FLAGS,
)  # fmt: skip

PARTS = ('parity', 'attention', 'steps', 'repeat', 'calls')
_ROOT = pathlib.Path(__file__).parents[1]
_GOLDEN = _ROOT / 'tests' / 'golden'
# A check that takes longer hangs.
_LIMIT_SECONDS = 3600
_GIB = 2**30
# What serves on each platform beside 'xla', and the kernel's fusion.
_ATTENTIONS = {
  'cpu': (('xla_recompute',), ('cpu',)),
  'gpu': (('xla_recompute',), ('cudnn',)),
  'tpu': (('xla_recompute',), ('pallas', 'attention'), ('pallas', 'block')),
}
_SYSTEMS = ('arc1', 'arc1:trm', 'sudoku', 'sudoku:trm')
_DEMOS = ('arc1:demo', 'arc1:demo,trm', 'sudoku:demo', 'sudoku:demo,trm')
# Rows of the published batch of ARC that one of eight devices has.
_ROWS = 96


class Check(NamedTuple):
  """A process to run, `python -m MODULE ARGUMENTS`, and a name for it."""

  part: str
  title: str
  module: str
  arguments: tuple[str, ...] = ()


def main(parts: Sequence[str]) -> int:
  if unknown := set(parts) - {*PARTS}:
    raise ConfigError(
      f'{", ".join(sorted(unknown))}: no part of the check; name some of '
      + ', '.join(PARTS)
    )
  described = run(Check('', '', 'experiments.benchmarks.device', ('describe',)))
  if described['problem']:
    raise ConfigError(f'JAX finds no devices: {described["problem"]}')
  (machine,) = described['results']
  report = {
    'date': datetime.date.today().isoformat(),
    'version': hrm_jax.__version__,
    'commit': command.commit(),
    **machine,
    'checks': [],
  }
  kind = re.sub('[^a-z0-9]+', '_', machine['device_kind'].lower()).strip('_')
  path = FLAGS.out / f'{report["date"]}_{kind}.md'
  chosen = checks(machine, parts or PARTS, FLAGS.golden)
  progress = Progress('Checks', len(chosen), 0)
  for check in chosen:
    logging.info('%s: %s', check.part, check.title)
    report['checks'].append(run(check))
    with command.writing(path):
      files.write_json(path.with_suffix('.json'), report)
      files.write_text(path, text(report))
    progress.add()
  logging.info('%s and %s are to be sent in', path, path.with_suffix('.json'))
  return int(any(failed(done) for done in report['checks']))


def checks(
  machine: dict[str, Any], parts: Sequence[str], golden: Sequence[str] | None
) -> list[Check]:
  """All checks of these parts for a machine, in order."""
  small = machine['platform'] == 'cpu'
  device, out = 'experiments.benchmarks.device', []
  paths = golden or sorted(map(os.path.relpath, _GOLDEN.glob('*.npz')))
  for path in paths:
    if not pathlib.Path(path).is_file():
      raise ConfigError(f'--golden={path}: there is no such file')
  if not paths and 'parity' in parts:
    logging.warning(
      'The part parity is left out: there are no golden files at %s; give '
      "--golden=FILE, e.g. of a clone of the repository's tests/golden",
      _GOLDEN,
    )
  for path in paths:
    name = pathlib.Path(path).name
    verify = 'experiments.verify_parity'
    out.append(Check('parity', name, verify, (f'--golden={path}',)))
  for kind in _ATTENTIONS[machine['platform']]:
    arguments = ('attention', *kind)
    out.append(Check('attention', ' '.join(kind), device, arguments))
  for config in _DEMOS if small else _SYSTEMS + _DEMOS:
    given = (f'--config={config}', '--target=here')
    batches = [()]
    if config in _SYSTEMS:
      rows = f'--config.batch_size={_ROWS * machine["devices"]}'
      batches = [(rows,), (rows, '--largest_batch')]
    for batch in batches:
      title = config + ', the largest batch' * ('--largest_batch' in batch)
      out.append(Check('steps', title, 'experiments.compile', given + batch))
  out.append(Check('repeat', 'the same seed twice', device, ('repeat',)))
  call = ('steps_per_call',)
  out.append(Check('calls', 'sudoku:demo', 'experiments.benchmark', call))
  return [check for check in out if check.part in parts]


def run(check: Check, limit: float = _LIMIT_SECONDS) -> dict[str, Any]:
  """Runs a check; returns what it printed, and what went wrong with it.

  `results` are its lines of JSON, `lines` the others, `problem` is None or
  a line, and `refused` tells that the check is not for these devices.
  """
  begin = time.monotonic()
  words = [sys.executable, '-m', check.module, *check.arguments]
  try:
    done = subprocess.run(
      words, capture_output=True, text=True, timeout=limit, check=False
    )
    code, printed, said = done.returncode, done.stdout, done.stderr
  except subprocess.TimeoutExpired:
    code, printed = -1, ''
    said = f'it did not end within {limit:.0f} s'
  lines = printed.strip().splitlines()
  results = [json.loads(line) for line in lines if line.startswith('{')]
  problem = None
  # 1 is the code of a check that tells what it found wrong, and of a traceback.
  if not {0: lines, 1: results}.get(code):
    last = (said.strip().splitlines() or ['it said nothing'])[-1]
    problem = f'{last.removeprefix("error: ")} (exit code {code})'
  return {
    'part': check.part,
    'title': check.title,
    'command': ' '.join(('python -m', check.module, *check.arguments)),
    'seconds': round(time.monotonic() - begin, 1),
    'results': results,
    'lines': [line for line in lines if not line.startswith('{')],
    'problem': problem,
    'refused': code == 2,
  }


def failed(done: dict[str, Any]) -> bool:
  """Whether something is wrong with these devices or with this project."""
  if done['problem']:
    return not done['refused']
  return not all(found.get('ok', True) for found in done['results'])


def text(report: dict[str, Any]) -> str:
  """The report as Markdown."""
  versions = ', '.join(f'{k} {v}' for k, v in report['versions'].items())
  memory = report['memory_bytes']
  facts = {
    'devices': f'{report["devices"]} × {report["device_kind"]}'
    + (f', {memory / _GIB:.1f} GiB each for JAX' if memory else ''),
    'hrm-jax': f'{report["version"]}, commit {report["commit"] or "unknown"}',
    'versions': versions,
    'runtime': ' '.join(report['runtime'].split()),
  }
  out = [
    f'# {report["device_kind"]}, {report["date"]}', '',
    *_table(('', ''), facts.items()), '',
    'Made by `hrm-jax device_check`; the JSON beside it has all figures and '
    'the command of each check.',
  ]  # fmt: skip
  for part, (title, columns) in _SECTIONS.items():
    done = [check for check in report['checks'] if check['part'] == part]
    rows = [
      {
        'check': check['title'],
        **columns(found),
        'verdict': _verdict(found),
      }
      for check in done
      for found in check['results']
    ]
    if done:
      out += ['', f'## {title}', '']
    if rows:
      out += _table([*rows[0]], (row.values() for row in rows))
    for check in done:
      if part == 'calls':
        out += [f'* {line}' for line in check['lines']]
      if check['problem']:
        what = 'not run' if check['refused'] else 'FAILED'
        out += ['', f'{what}: {check["title"]}: {check["problem"]}']
  return '\n'.join(out) + '\n'


def _verdict(found: dict[str, Any]) -> str:
  if not found.get('fits', True):
    return 'does not fit'
  return 'ok' if found.get('ok', True) else 'FAILED'


def _parity(found: dict[str, Any]) -> dict[str, str]:
  return {group: _number(x, '.1e') for group, x in found['worst'].items()}


def _attention(found: dict[str, Any]) -> dict[str, str]:
  return {
    'type': found['dtype'],
    'tokens': str(found['tokens']),
    **{
      key: f'{_number(found[key], ".1e")} ({found[f"{key}_by_xla"]:.1e})'
      for key in ('output', 'gradient')
    },
  }


def _step(found: dict[str, Any]) -> dict[str, str]:
  seconds = found['measured_seconds_per_step']
  known = hardware.KINDS.get(found['device_kind'])
  rate = known and known.flops
  used = seconds and rate and found['ideal_flops_per_device'] / seconds / rate
  peaks = (found[f'{kind}peak_bytes_per_device'] for kind in ('', 'measured_'))
  predicted, measured = (_number(x and x / _GIB, '.2f') for x in peaks)
  return {
    'batch': str(found['batch_size']),
    'ms': _number(seconds and 1e3 * seconds, '.3g'),
    'rows/s': _number(seconds and found['batch_size'] / seconds, ',.0f'),
    'utilisation': _number(used, '.0%'),
    'peak GiB, predicted': predicted,
    'measured': measured,
  }


def _number(value: float | None, form: str) -> str:
  return '–' if value is None else format(value, form)


def _table(head: Sequence[str], rows: Any) -> list[str]:
  lines = [head, ['---'] * len(head), *rows]
  return [f'| {" | ".join(map(str, line))} |' for line in lines]


# The title of each part, and the columns that tell of a result.
_SECTIONS: dict[str, tuple[str, Callable[[dict[str, Any]], dict[str, str]]]] = {
  'parity': (
    'Golden files of the published code: greatest relative errors', _parity,
  ),
  'attention': (
    "A block's errors against XLA in float32; in brackets XLA's in the type",
    _attention,
  ),
  'steps': ('Training steps on random puzzles', _step),
  'repeat': (
    'The same seed twice, bit for bit',
    lambda found: {key: str(found[key]) for key in ('steps', 'batch_size')},
  ),
  'calls': ('Steps of one call of the device', lambda _: {}),
}  # fmt: skip


if __name__ == '__main__':
  command.run(main, FLAGS, positional=True)
