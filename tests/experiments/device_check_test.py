"""The check of devices: what it runs, what it says of failures, its report."""

import json
import re

import pytest
from absl.testing import flagsaver

from data_pipelines.errors import ConfigError
from experiments import device_check
from experiments.benchmarks import device
from hrm_jax.models.attention import dispatch

_GPU = {'platform': 'gpu', 'devices': 2}


def _commands(machine, *parts):
  found = device_check.checks(machine, parts or device_check.PARTS, None)
  return [(check.part, ' '.join(check.arguments)) for check in found]


def test_an_accelerator_is_checked_at_the_published_sizes():
  found = _commands(_GPU)
  assert [part for part in device_check.PARTS if part in dict(found)] == [
    *device_check.PARTS
  ]
  assert ('attention', 'attention cudnn') in found
  rows = '--config=arc1:trm --target=here --config.batch_size=192'
  assert ('steps', rows) in found
  assert ('steps', f'{rows} --largest_batch') in found
  # Six files, of this repository.
  assert sum(part == 'parity' for part, _ in found) >= 6


def test_a_cpu_is_checked_at_small_sizes():
  found = _commands({'platform': 'cpu', 'devices': 1}, 'steps', 'attention')
  assert ('attention', 'attention cpu') in found
  steps = [command for part, command in found if part == 'steps']
  assert steps and all(':demo' in command for command in steps)
  assert {part for part, _ in found} == {'steps', 'attention'}


def test_golden_files_that_are_not_there_are_named():
  with pytest.raises(ConfigError, match=r'--golden=nope\.npz: there is no'):
    device_check.checks(_GPU, ['parity'], ['nope.npz'])


@pytest.mark.parametrize(
  'module, argument, limit, problem, failed',
  [
    ('timeit', 'import os; os.abort()', 60, r'\(exit code -6\)', True),
    ('timeit', 'import time; time.sleep(60)', 1, 'not end within 1 s', True),
    ('timeit', '1 / 0', 60, 'ZeroDivisionError', True),
    # What a device does not have is no failure.
    ('experiments.device_check', '--nope', 60, 'has no flag --nope', False),
  ],
)
def test_a_check_that_fails_ends_alone(
  module, argument, limit, problem, failed
):
  options = ('-n1', '-r1') if module == 'timeit' else ()
  check = device_check.Check('steps', 'x', module, (*options, argument))
  done = device_check.run(check, limit)
  assert device_check.failed(done) == failed
  report = {**_REPORT, 'checks': [done]}
  (line,) = device_check.text(report).splitlines()[-1:]
  assert line.startswith('FAILED: x: ' if failed else 'not run: x: ')
  assert re.search(problem, line)


_REPORT = {
  'date': '2026-01-02', 'version': '0.1.0', 'commit': None, 'devices': 2,
  'device_kind': 'NVIDIA H200', 'memory_bytes': 2**30, 'runtime': 'cuda\n12',
  'versions': {'jax': '0.10.2'},
}  # fmt: skip


def _done(part, *results, lines=()):
  return {
    'part': part, 'title': 'it', 'results': results, 'lines': lines,
    'problem': None, 'refused': False,
  }  # fmt: skip


def test_the_report_tells_figures_and_failures():
  step = {
    'device_kind': 'NVIDIA H200',
    'batch_size': 192,
    'measured_seconds_per_step': 0.2,
    # A fifth of what it could do in that time.
    'ideal_flops_per_device': 989.4e12 * 0.04,
    'peak_bytes_per_device': 3 * 2**30,
    'measured_peak_bytes_per_device': None,
  }
  wrong = {
    'implementation': 'cudnn', 'dtype': 'bfloat16', 'tokens': 901, 'ok': False,
    'output': None, 'output_by_xla': 0.01, 'gradient': 0.03,
    'gradient_by_xla': 0.01,
  }  # fmt: skip
  checks = [
    _done('parity', {'ok': True, 'worst': {'losses': 1e-6, 'rate': None}}),
    _done('attention', wrong),
    _done('steps', step),
    _done('calls', lines=['4 steps in a call']),
  ]
  text = device_check.text(_REPORT | {'checks': checks})
  for line in (
    '# NVIDIA H200, 2026-01-02',
    '| it | 1.0e-06 | – | ok |',
    '| it | bfloat16 | 901 | – (1.0e-02) | 3.0e-02 (1.0e-02) | FAILED |',
    '| it | 192 | 200 | 960 | 20% | 3.00 | – | ok |',
    '* 4 steps in a call',
    '| runtime | cuda 12 |',
  ):
    assert line in text.splitlines(), line
  assert [device_check.failed(check) for check in checks] == [
    False, True, False, False,
  ]  # fmt: skip


@pytest.mark.parametrize('factor, ok', [(1.0, True), (1.001, False)])
def test_a_wrong_kernel_is_found(monkeypatch, factor, ok):
  right = dispatch.cpu_attention.attention
  monkeypatch.setattr(
    dispatch.cpu_attention, 'attention', lambda *x: factor * right(*x)
  )
  assert device.attention('cpu')['ok'] == ok


@pytest.mark.slow
def test_the_check_of_this_cpu(tmp_path, monkeypatch):
  monkeypatch.setattr(device_check, '_DEMOS', ('sudoku:demo,direct',))
  golden = device_check._GOLDEN / 'hrm_no_puzzle.npz'
  saved = flagsaver.save_flag_values(device_check.FLAGS)
  try:
    device_check.FLAGS(['', f'--out={tmp_path}', f'--golden={golden}'])
    assert device_check.main(['parity', 'attention', 'steps', 'repeat']) == 0
  finally:
    flagsaver.restore_flag_values(saved, device_check.FLAGS)
  (path,) = tmp_path.glob('*.json')
  done = json.loads(path.read_text())['checks']
  assert [check['part'] for check in done] == [
    'parity', 'attention', 'attention', 'steps', 'repeat',
  ]  # fmt: skip
  assert all(len(check['results']) == 1 for check in done)
  assert done[3]['results'][0]['measured_seconds_per_step'] > 0
  assert path.with_suffix('.md').read_text().count('| ok |') == 5
