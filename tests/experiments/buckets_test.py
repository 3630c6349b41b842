"""Whole runs in a bucket: as on a disk, whatever happens to the bucket."""

import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest

import hrm_jax
from data_pipelines import files
from experiments import analyze, evaluate, predict, report
from experiments.reporting import runs
from tests import buckets, builders, devices

pytestmark = pytest.mark.slow


@pytest.fixture
def made(in_bucket, tiny_config):
  """The run of `trained_run`, made in a bucket."""
  builders.train(tiny_config, in_bucket, profile=(2, 3))
  evaluate.run(in_bucket)
  return in_bucket


def test_a_run_in_a_bucket_is_the_one_on_a_disk(made, trained_run, tmp_path):
  for name in ('metrics.jsonl', 'evaluation/step_4/predictions.csv'):
    assert (made / name).read_text() == (trained_run / name).read_text()
  ours, theirs = map(hrm_jax.load, (str(made), trained_run))
  question = '123434122143432.'
  np.testing.assert_array_equal(
    ours.solve(question).grids[0], theirs.solve(question).grids[0]
  )
  predict.run(made, question, trace=True)
  analyze.run(made, only=['augmentations'])
  page = report.run(made).read_text()
  assert str(made) in page
  written = ' '.join(files.names(made))
  assert 'predictions/step_4/' in written
  assert '.xplane.pb' in written
  (one,) = runs.read_all([str(made)])
  assert one.parameters == runs.read(trained_run).parameters
  assert one.scores.metrics == runs.read(trained_run).scores.metrics


_TRAIN = (
  sys.executable, '-m', 'experiments.train', '--config=sudoku:demo,direct',
  '--config.data.train=sudoku:box=2x2:count=20:tests=10',
  '--config.data.evaluate=sudoku:box=2x2:count=20:tests=10',
  '--config.data.num_aug=3', '--config.checkpoint_every=50',
  '--config.evaluate_every=0', '--config.log_every=10',
  '--config.batch_size=16', '--config.model.hidden_size=16',
  '--config.model.num_heads=2', '--config.total_steps=400',
)  # fmt: skip


def _start(workdir):
  return subprocess.Popen(
    [*_TRAIN, f'--workdir={workdir}'],
    env=os.environ | {'XLA_FLAGS': devices.xla_flags(1)},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def _lines(directory):
  text = (directory / 'metrics.jsonl').read_text()
  return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(scope='module')
def undisturbed(tmp_path_factory, generated):
  """The lines of the run in peace, on a disk."""
  run = tmp_path_factory.mktemp('undisturbed') / 'run'
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('HRM_JAX_CACHE', str(generated))
    process = _start(run)
    _, told = process.communicate(timeout=300)
  assert process.returncode == 0, told
  return _lines(run)


@pytest.fixture
def server(tmp_path, generated, monkeypatch):
  monkeypatch.setenv('HRM_JAX_CACHE', str(generated))
  with buckets.serving(tmp_path / 'server') as server:
    yield server


def _saves_one(server):
  """A run that has just saved its first checkpoint."""
  process = _start(f'gs://{buckets.BUCKET}/run')
  end = time.monotonic() + 120
  saved = server.objects / 'run' / 'checkpoints' / '50' / 'commit_success.txt'
  while not saved.exists():
    assert time.monotonic() < end
    time.sleep(0.01)
  return process


def test_a_run_goes_on_when_its_bucket_comes_back(server, undisturbed):
  process = _saves_one(server)
  server.stop()
  time.sleep(20)
  assert process.poll() is None
  server.start()
  _, told = process.communicate(timeout=300)
  assert process.returncode == 0, told
  assert _lines(server.objects / 'run') == undisturbed


def test_without_its_bucket_a_run_ends_in_one_line_and_loses_nothing(
  server, undisturbed
):
  process = _saves_one(server)
  server.halt(True)
  _, told = process.communicate(timeout=300)
  server.halt(False)
  assert process.returncode == 2, told
  errors = [line for line in told.splitlines() if line.startswith('error: ')]
  assert len(errors) == 1, told
  assert 'Traceback' not in told
  assert errors[0].endswith(
    'the same command continues from the newest checkpoint'
  )
  again = _start(f'gs://{buckets.BUCKET}/run')
  _, told = again.communicate(timeout=300)
  assert again.returncode == 0, told
  assert 'Restored step 50 of gs://' in told
  assert _lines(server.objects / 'run') == undisturbed
