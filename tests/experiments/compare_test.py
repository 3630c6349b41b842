"""The command that compares runs: what it prints and writes."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from experiments.configs import base, sudoku

_DATA = 'train generated sudoku a; evaluate generated sudoku b'
_SCORES = {'eval/exact': 0.5, 'eval/accuracy': 0.75}
_EVALUATIONS = [{'step': 10, 'eval/exact': 0.25}]


def _command(*arguments):
  return subprocess.run(
    [sys.executable, '-m', 'experiments.compare', *map(str, arguments)],
    capture_output=True,
    text=True,
    timeout=120,
    check=False,
  )


def test_command_writes_what_it_prints(tmp_path, write_run, monkeypatch):
  # A font cache that must be built first.
  monkeypatch.setenv('MPLCONFIGDIR', str(tmp_path / 'matplotlib'))
  hrm = write_run(
    'hrm', sudoku.get_config('demo'), _DATA, _SCORES, evaluations=_EVALUATIONS
  )
  # Scored, but never evaluated during training.
  trm = write_run('trm', base.get_config('trm'), _DATA, _SCORES)
  for number, names in enumerate(([], [hrm, trm])):
    out = tmp_path / 'new' / f'place_{number}'
    flags = [f'--runs={",".join(map(str, names))}'] if names else []
    done = _command(*flags, f'--out={out}')
    assert (done.returncode, done.stderr) == (0, '')
    text = (out / 'comparison.md').read_text()
    assert text.removeprefix('# Comparison\n\n').strip() in done.stdout
    record = json.loads(done.stdout.splitlines()[-1])
    assert record == json.loads((out / 'comparison.json').read_text())
    assert [one['runs'] for one in record['measured']] == [
      [str(name)] for name in names
    ]
    assert [one['label'] for one in record['curves']] == ['HRM'][: len(names)]
    assert (out / 'learning_curves.png').exists() == bool(names)
  with Image.open(out / 'learning_curves.png') as image:
    assert image.format == 'PNG'
    assert len(np.unique(np.asarray(image))) > 10


@pytest.mark.slow
def test_command_says_what_is_wrong_in_one_line(tmp_path, write_run):
  taken = tmp_path / 'file'
  taken.write_text('')
  run = write_run(
    'hrm', sudoku.get_config('demo'), _DATA, _SCORES, evaluations=_EVALUATIONS
  )
  for flags, part in (
    ([f'--runs={tmp_path}/nowhere'], 'nowhere: no config.json'),
    ([f'--out={taken}'], f'{taken}'),
    ([f'--runs={run}', '--metric=x'], '--metric=x is not'),
  ):
    done = _command(*flags)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert part in line
