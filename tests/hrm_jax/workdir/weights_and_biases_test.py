"""Weights & Biases gets what metrics.jsonl gets; nobody meets it unasked."""

import importlib.util
import json
import os
import pathlib
import struct
import subprocess
import sys

import pytest

from data_pipelines.errors import ConfigError
from tests import builders

pytestmark = pytest.mark.slow

_BLOCK = 2**15


@pytest.fixture
def offline(monkeypatch, tmp_path):
  monkeypatch.setenv('WANDB_MODE', 'offline')
  # Neither an account nor settings of whoever runs the tests.
  monkeypatch.setenv('HOME', str(tmp_path))
  monkeypatch.delenv('WANDB_API_KEY', raising=False)


def _python(*arguments, **environment):
  return subprocess.run(
    [sys.executable, *arguments],
    cwd=pathlib.Path(__file__).parents[3],
    env=os.environ | environment,
    capture_output=True,
    text=True,
  )


def _read(path):
  """The records of a file of wandb's: LevelDB's log format after 7 bytes."""
  from wandb.proto import wandb_internal_pb2

  data, place, parts = path.read_bytes(), 7, []
  assert data.startswith(b':W&B')
  while place < len(data):
    left = _BLOCK - place % _BLOCK
    if left < 7:
      place += left
      continue
    _, size, kind = struct.unpack_from('<IHB', data, place)
    parts.append(data[place + 7 : place + 7 + size])
    place += 7 + size
    # Whole, or the last part.
    if kind in (1, 4):
      yield wandb_internal_pb2.Record.FromString(b''.join(parts))
      parts = []


def _records(workdir):
  """What lies there to be sent, of each start a list."""
  return [
    list(_read(path))
    for path in sorted((workdir / 'wandb').glob('offline-run-*/*.wandb'))
  ]


def _lines(records):
  """The metrics of each step, in order."""
  return [
    {
      '/'.join(item.nested_key) or item.key: json.loads(item.value_json)
      for item in record.history.item
    }
    for record in records
    if record.HasField('history')
  ]


def _own(line):
  return {name: v for name, v in line.items() if not name.startswith('_')}


def test_each_start_adds_its_lines_to_one_run(
  offline, generated, tmp_path, monkeypatch
):
  monkeypatch.setenv('HRM_JAX_CACHE', str(generated))
  workdir = tmp_path / 'run'
  for stop in (2, 4):
    done = _python(
      '-m',
      'experiments.train',
      '--config=experiments/configs/sudoku.py:demo,direct',
      '--config.data.train=sudoku:box=2x2:count=20:tests=10',
      '--config.data.evaluate=sudoku:box=2x2:count=20:tests=10',
      '--config.data.num_aug=3',
      '--config.total_steps=4',
      f'--config.stop_at_step={stop}',
      '--config.log_every=1',
      '--config.evaluate_every=2',
      '--config.batch_size=16',
      '--config.model.hidden_size=16',
      '--config.model.num_heads=2',
      '--config.seed=3',
      f'--workdir={workdir}',
      '--wandb=puzzles',
    )
    assert done.returncode == 0, done.stderr
  written = [
    json.loads(line)
    for line in (workdir / 'metrics.jsonl').read_text().splitlines()
  ]
  starts = _records(workdir)
  assert len(starts) == 2
  lines = [_own(line) for records in starts for line in _lines(records)]
  assert lines == written
  runs = [
    record.run
    for records in starts
    for record in records
    if record.HasField('run')
  ]
  assert {run.project for run in runs} == {'puzzles'}
  assert {run.run_id for run in runs} == {
    (workdir / 'wandb' / 'run_id').read_text()
  }
  settings = {item.key: item.value_json for item in runs[0].config.update}
  assert json.loads(settings['seed']) == 3


@pytest.mark.parametrize(
  'error, code',
  [('None', 0), ('ValueError', 1), ('training.Preempted(3)', 75)],
)
def test_the_run_there_ends_as_it_ends_here(offline, tmp_path, error, code):
  script = f"""
import pathlib
from hrm_jax.workdir import weights_and_biases
from hrm_jax.training import loop as training
try:
  workdir = pathlib.Path({str(tmp_path)!r})
  with weights_and_biases.Tracker('puzzles', workdir, {{}}) as tracker:
    tracker.write(1, {{'loss': 2.0}})
    if {error}:
      raise {error}
except (ValueError, training.Preempted):
  pass
"""
  done = _python('-c', script)
  assert done.returncode == 0, done.stderr
  (records,) = _records(tmp_path)
  assert [_own(line) for line in _lines(records)] == [{'step': 1, 'loss': 2.0}]
  (end,) = (r.exit.exit_code for r in records if r.HasField('exit'))
  assert end == code


def test_without_an_account_it_says_so_before_training(offline, tmp_path):
  # By the command: in one process wandb looks at its settings once.
  workdir = tmp_path / 'run'
  done = _python(
    '-m',
    'experiments.train',
    '--config=experiments/configs/arc1.py:demo',
    f'--workdir={workdir}',
    '--wandb=puzzles',
    WANDB_MODE='online',
  )
  assert done.returncode == 2, done.stderr
  assert 'error: --wandb=puzzles: does not start (' in done.stderr
  assert '`wandb login`, set WANDB_MODE=offline' in done.stderr
  assert 'Traceback' not in done.stderr
  assert not (workdir / 'metrics.jsonl').exists()


def test_a_missing_package_names_the_extra(tmp_path, tiny_config, monkeypatch):
  find_spec = importlib.util.find_spec
  monkeypatch.setattr(
    importlib.util,
    'find_spec',
    lambda name, *more: None if name == 'wandb' else find_spec(name, *more),
  )
  with pytest.raises(ConfigError, match=r"pip install -e '\.\[wandb\]'"):
    builders.train(tiny_config, tmp_path / 'run', wandb='puzzles')
  assert not (tmp_path / 'run').exists()


def test_nothing_of_it_is_imported_unasked():
  code = 'import sys, experiments.train; print("wandb" in sys.modules)'
  done = _python('-c', code)
  assert done.stdout.strip() == 'False'
