"""What was written once is read for ever: see tests/golden/make_run.py."""

import hashlib
import json
import shutil

import numpy as np
import pytest

from data_pipelines.errors import ConfigError
from data_pipelines.leaks import Leak
from experiments import evaluate
from hrm_jax import build
from hrm_jax.inference import evaluation
from hrm_jax.training import step as train_step
from hrm_jax.workdir import checkpoints
from hrm_jax.workdir import config as workdir_config
from hrm_jax.workdir import lock as workdir_lock
from tests import builders
from tests.golden import make_run


@pytest.fixture(
  params=sorted(make_run.GOLDEN.glob('run_v*')), ids=lambda path: path.name
)
def golden(request, tmp_path):
  """A run that was moved to another place, and what is to come of it."""
  workdir = tmp_path / 'moved'
  shutil.copytree(request.param / 'run', workdir)
  expected = json.loads((request.param / 'expected.json').read_text())
  return workdir, expected, np.load(request.param / 'state.npz')


def test_every_array_is_read_bit_for_bit(golden):
  workdir, expected, arrays = golden
  config, _ = workdir_config.read(workdir)
  setup = build.train_setup(config, build.puzzle_set(config))
  saved = checkpoints.Checkpoints(workdir)
  step = saved.find()
  assert step == expected['step']
  state = saved.restore(
    step,
    train_step.abstract_state(setup, build.mesh(config)),
  )
  saved.close()
  found = make_run.named(state)
  # Of the mesh's equal parts, some rows belong to no puzzle.
  rows = len(arrays['puzzle_table'])
  assert rows == setup.num_puzzle_identifiers
  found['puzzle_table'] = found['puzzle_table'][:rows]
  assert found.keys() == set(arrays)
  for name, array in arrays.items():
    assert found[name].dtype == array.dtype, name
    np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_the_golden_run_was_amid_its_work(golden):
  """Else reading it would prove less."""
  workdir, expected, arrays = golden
  assert len(set(arrays['carry/steps'])) > 2
  assert all(np.any(array) for array in arrays.values())
  ema, params = arrays['ema/lm_head/kernel'], arrays['params/lm_head/kernel']
  assert not np.array_equal(ema, params)
  # The window's record: steps that count, and updates that were skipped.
  assert expected['next'][0]['skipped'] > 0
  assert 0 < expected['scores']['eval/pass@1/outputs'] < 1
  assert sorted(path.name for path in workdir.iterdir()) == [
    'checkpoints', 'config.json', 'metrics.jsonl'
  ]  # fmt: skip


def test_training_goes_on(golden):
  workdir, expected, _ = golden
  before = (workdir / 'metrics.jsonl').read_text()
  lines = make_run.go_on(workdir, expected['step'])
  assert len(lines) == len(expected['next'])
  for found, line in zip(lines, expected['next'], strict=True):
    # Of another number of devices, maybe of another JAX.
    assert found == pytest.approx(line, rel=1e-4, abs=1e-6), line['step']
  assert (workdir / 'metrics.jsonl').read_text().startswith(before)


def test_evaluation_gives_the_same_scores(golden):
  workdir, expected, _ = golden
  found = make_run.scores(workdir, expected['step'])
  # Leaks were recorded as texts.
  leaks = found['leaks'].pop('leaks')
  found['leaks']['names'] = sorted({Leak(**leak).entry for leak in leaks})
  for name, score in expected['scores'].items():
    assert found[name] == (
      pytest.approx(score) if isinstance(score, float) else score
    ), name


def test_the_rows_that_are_needed_predict_as_the_whole_table(
  golden, monkeypatch
):
  workdir, _, _ = golden
  restore = checkpoints.Checkpoints.restore_weights
  tables = []

  def restored(*arguments):
    weights = restore(*arguments)
    tables.append(weights[1].shape)
    return weights

  monkeypatch.setattr(checkpoints.Checkpoints, 'restore_weights', restored)
  few = evaluate.run(workdir, max_augmentations=2, max_puzzles=3)
  monkeypatch.setattr(
    evaluation, 'needed_rows', lambda _, identifiers: (None, identifiers)
  )
  whole = evaluate.run(workdir, max_augmentations=2, max_puzzles=3)
  assert tables == [(8, 16), (48, 16)]
  assert few.metrics == whole.metrics
  for key, candidates in whole.candidates.items():
    for ours, theirs in zip(few.candidates[key], candidates, strict=True):
      np.testing.assert_array_equal(ours.grid, theirs.grid)
      assert ours[1:] == theirs[1:]


def _rewrite(path, **fields):
  path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_a_newer_format_is_refused(golden):
  workdir, expected, _ = golden
  newer = checkpoints.FORMAT_VERSION + 1
  checkpoint = workdir / 'checkpoints' / str(expected['step'])
  path = checkpoint / 'position' / 'metadata'
  before = hashlib.sha256(path.read_bytes()).hexdigest()
  _rewrite(path, format_version=newer, something_new=1)
  # It may lack what this version looks for.
  names = checkpoint / 'identifiers' / 'metadata'
  sums = (checkpoint / 'SHA256SUMS').read_text()
  after = hashlib.sha256(path.read_bytes()).hexdigest()
  lines = sums.replace(before, after).splitlines(keepends=True)
  shutil.rmtree(names.parent)
  (checkpoint / 'SHA256SUMS').write_text(
    ''.join(line for line in lines if 'identifiers/' not in line)
  )
  message = (
    f'{checkpoint}: has format {newer}, this code reads '
    f'{checkpoints.FORMAT_VERSION}; use a newer hrm_jax'
  )
  config, _ = workdir_config.read(workdir)
  for use in (
    lambda: evaluate.run(workdir), lambda: builders.train(config, workdir)
  ):  # fmt: skip
    with pytest.raises(ConfigError) as error:
      use()
    assert str(error.value) == message
  # It is as it was.
  assert checkpoints.find_damage(checkpoint) is None


def test_settings_that_nobody_knows_are_named(golden):
  workdir, _, _ = golden
  config, _ = workdir_config.read(workdir)
  _rewrite(workdir / 'config.json', surprise=5)
  with pytest.raises(
    ConfigError, match=r"config\.json: setting 'surprise' is not known; use the"
  ):
    evaluate.run(workdir)
  with pytest.raises(ConfigError, match=r'surprise \(5 there, None here\)'):
    builders.train(config, workdir)


def test_a_run_that_goes_on_elsewhere_is_left_alone(golden):
  workdir, _, _ = golden
  config, _ = workdir_config.read(workdir)
  config = config.replace({'log_every': 1})
  before = (workdir / 'config.json').read_bytes()
  with (
    workdir_lock.hold(workdir),
    pytest.raises(ConfigError, match='is in use by process'),
  ):
    builders.train(config, workdir)
  assert (workdir / 'config.json').read_bytes() == before
  assert not (workdir / 'tensorboard').exists()
