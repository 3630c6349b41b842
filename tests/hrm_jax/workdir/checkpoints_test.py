"""What is saved comes back bit for bit, and what is damaged is named."""

import logging
import shutil
import subprocess
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines.errors import ConfigError
from hrm_jax.parallel import sharding
from hrm_jax.settings import ActSettings, OptimizerSettings, Settings
from hrm_jax.training import step as train_step
from hrm_jax.workdir import checkpoints
from hrm_jax.workdir.checkpoints import Checkpoints, Position
from tests import builders

POSITION = Position(
  data_position=7,
  identifier_names=['<blank>', '007bbfb7', 'Übung/π→∞ 日本', ''],
  data_version='v1-ä',
  batch_size=8,
  scores=((1, 0.1), (2, 1 / 3)),
  loop={'sums': {'loss': 0.1 + 0.2}, 'lines': 7},
)


def _setup(ema_decay=0.0, identifiers=20, **fields):
  model = dict(
    vocab_size=12,
    seq_len=9,
    hidden_size=32,
    num_heads=4,
    H_layers=1,
    L_layers=1,
    puzzle_emb_ndim=32,
    dtype='bfloat16',
  )
  return train_step.TrainSetup(
    model=builders.model('hrm', **(model | fields)),
    act=ActSettings(),
    optimizer=OptimizerSettings(ema_decay=ema_decay),
    loss='stablemax',
    total_steps=100,
    batch_size=8,
    num_puzzle_identifiers=identifiers,
    seed=0,
  )


def _like(devices=8, **fields):
  mesh = sharding.make_mesh(jax.devices()[:devices])
  return train_step.abstract_state(_setup(**fields), mesh)


def _state(step, devices=8, **fields):
  """A state in which no leaf is equal to another or to zero."""
  rng = np.random.default_rng(step)

  def random(leaf):
    values = rng.normal(scale=100, size=leaf.shape)
    if leaf.dtype == jnp.bool_:
      values = values > 0
    return jax.device_put(jnp.asarray(values).astype(leaf.dtype), leaf.sharding)

  state = jax.tree.map(random, _like(devices, **fields))
  return state.replace(
    step=jax.device_put(jnp.int32(step), state.step.sharding)
  )


def _assert_same(ours, theirs):
  """Bit for bit, types included."""

  def same(a, b):
    assert a.dtype == b.dtype
    np.testing.assert_array_equal(a, b)

  jax.tree.map(same, ours, theirs)


_KEEP = Settings(keep_checkpoints=10)
_BEST = Settings(
  keep_checkpoints=1, keep_best=1, keep_every=4, evaluate_every=1
)


def _save(workdir, *states, keep=_KEEP):
  saved = Checkpoints(workdir, keep)
  for state in states:
    saved.save(state, POSITION)
  saved.close()


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  """A workdir with a checkpoint of step 3 and one of step 5."""
  workdir = tmp_path_factory.mktemp('run')
  _save(workdir, _state(3), _state(5))
  return workdir


def test_restoring_gives_back_every_leaf_and_the_position(workdir):
  saved = Checkpoints(workdir)
  for step in (3, 5):
    state = saved.restore(step, _like())
    _assert_same(state, _state(step))
    assert saved.position(step) == POSITION

  def placed(leaf, like):
    assert leaf.sharding.is_equivalent_to(like.sharding, leaf.ndim)

  jax.tree.map(placed, state, _like())
  saved.close()


@pytest.mark.parametrize('devices', [1, 2])
def test_a_checkpoint_of_eight_devices_fits_fewer(workdir, devices):
  saved = Checkpoints(workdir)
  state = saved.restore(5, _like(devices))
  # Of 24 rows four served equal parts alone.
  expected = _state(5)
  expected = expected.replace(puzzle_table=expected.puzzle_table[:20])
  _assert_same(state, expected)
  used = {d for leaf in jax.tree.leaves(state) for d in leaf.devices()}
  assert used == set(jax.devices()[:devices])
  saved.close()


def test_a_checkpoint_of_one_device_fits_eight(tmp_path):
  state = _state(1, devices=1)
  assert len(state.puzzle_table) == 20
  _save(tmp_path, state)
  saved = Checkpoints(tmp_path)
  found = saved.restore(1, _like())
  np.testing.assert_array_equal(found.puzzle_table[:20], state.puzzle_table)
  assert not np.any(found.puzzle_table[20:])
  _assert_same(found.params, state.params)
  saved.close()


def test_other_shapes_than_the_models_are_named(workdir):
  saved = Checkpoints(workdir)
  with pytest.raises(ConfigError, match=r'lm_head.kernel has shape .*, not'):
    saved.restore_weights(5, _like(vocab_size=17).weights)
  saved.close()


def test_weights_come_back_alone(workdir):
  saved = Checkpoints(workdir)
  variables, table = saved.restore_weights(5, _like().weights)
  state = _state(5)
  assert variables.keys() == {'params', 'constants'}
  _assert_same(variables, state.variables)
  _assert_same(table, state.puzzle_table)
  saved.close()


def test_weights_need_no_training_state(workdir):
  # A batch size of evaluation's own, and another optimizer: only what
  # predicts is looked at.
  like = _like().replace(carry=None, opt_state=None, step=None)
  saved = Checkpoints(workdir)
  variables, _ = saved.restore_weights(3, like.weights)
  _assert_same(variables, _state(3).variables)
  saved.close()


_LARGE = dict(identifiers=50_000, puzzle_emb_ndim=128)


@pytest.fixture(scope='module', params=[1, 8])
def large(request, tmp_path_factory):
  """Weights of one device and of eight, with a table of 25 MB; and that."""
  workdir = tmp_path_factory.mktemp('large')
  state = _state(3, devices=request.param, **_LARGE)
  saved = Checkpoints(workdir, Settings(keep_checkpoints=1))
  saved.save_weights(3, state.variables, state.puzzle_table, POSITION)
  saved.close()
  return workdir, np.asarray(state.puzzle_table)


@pytest.mark.parametrize('devices', [1, 2, 8])
def test_a_table_in_pieces_fits_any_devices(large, devices):
  workdir, table = large
  saved = Checkpoints(workdir)
  _, found = saved.restore_weights(3, _like(devices, **_LARGE).weights)
  np.testing.assert_array_equal(found[:50_000], table[:50_000])
  saved.close()


def _bytes_read():
  with open('/proc/self/io') as file:
    return int(file.readline().removeprefix('rchar:'))


@pytest.mark.parametrize('devices', [1, 2, 8])
def test_only_rows_that_are_needed_are_read(large, devices):
  """The pieces that they lie in, a megabyte each, once for each device."""
  workdir, table = large
  rows = np.array([49_999, 7, 8, 30_000, 7])
  like = _like(devices, **_LARGE)
  saved = Checkpoints(workdir)
  before = _bytes_read()
  variables, found = saved.restore_weights(3, like.weights, rows)
  assert _bytes_read() - before < 10 * 2**20 < table.nbytes / 2
  assert found.shape == (-(-5 // devices) * devices, 128)
  np.testing.assert_array_equal(found[:5], table[rows])
  assert found.sharding.is_equivalent_to(like.puzzle_table.sharding, 2)
  _assert_same(variables, saved.restore_weights(3, like.weights)[0])
  saved.close()


def test_rows_of_a_small_table_and_of_none(workdir, tmp_path):
  saved = Checkpoints(workdir)
  rows = np.array([3, 0])
  _, found = saved.restore_weights(5, _like(2).weights, rows)
  _assert_same(found, _state(5).puzzle_table[rows])
  with pytest.raises(ConfigError, match=r'checkpoints/5: cannot be restored'):
    saved.restore_weights(5, _like().weights, np.array([24]))
  saved.close()
  _save(tmp_path, _state(1, puzzle_emb_ndim=0))
  saved = Checkpoints(tmp_path)
  like = _like(puzzle_emb_ndim=0)
  assert saved.restore_weights(1, like.weights, rows)[1].shape == (8, 0)
  saved.close()


def test_the_average_is_what_predicts_and_both_come_back(tmp_path):
  state = _state(3, ema_decay=0.9)
  assert not np.array_equal(
    state.ema['token_embedding'], state.params['token_embedding']
  )
  _save(tmp_path, state)
  saved = Checkpoints(tmp_path)
  _assert_same(saved.restore(3, _like(ema_decay=0.9)), state)
  variables, _ = saved.restore_weights(3, _like(ema_decay=0.9).weights)
  _assert_same(variables, state.weights.variables)
  saved.close()


def test_weights_alone_predict_and_are_not_trained_on(tmp_path):
  state = _state(3)
  saved = Checkpoints(tmp_path, Settings(keep_checkpoints=1))
  saved.save_weights(3, state.variables, state.puzzle_table, POSITION)
  saved.close()
  saved = Checkpoints(tmp_path)
  variables, table = saved.restore_weights(3, _like().weights)
  _assert_same(variables, state.variables)
  _assert_same(table, state.puzzle_table)
  assert saved.position(3) == POSITION
  with pytest.raises(ConfigError, match=r'evaluated, not trained on'):
    saved.restore(3, _like())
  saved.close()


def test_a_model_without_constants_is_saved(tmp_path):
  # Direct prediction has no initial states.
  state = _state(1).replace(constants={})
  _save(tmp_path, state)
  saved = Checkpoints(tmp_path)
  like = _like().replace(constants={})
  _assert_same(saved.restore(1, like), state)
  assert saved.restore_weights(1, like.weights)[0]['constants'] == {}
  saved.close()


def test_the_newest_is_found_unless_a_step_is_named(workdir):
  saved = Checkpoints(workdir)
  assert saved.steps() == [3, 5]
  assert saved.find() == 5
  assert saved.find(3) == 3
  with pytest.raises(ConfigError, match=r'no checkpoint of step 4.* 3, 5'):
    saved.find(4)
  saved.close()


def test_no_checkpoint_at_all_is_named(tmp_path):
  saved = Checkpoints(tmp_path / 'new')
  assert saved.steps() == []
  with pytest.raises(ConfigError, match='new/checkpoints: no checkpoint'):
    saved.find()
  saved.close()
  # Looking leaves nothing behind.
  assert not (tmp_path / 'new').exists()


def test_the_oldest_are_removed(tmp_path):
  _save(tmp_path, *map(_state, (1, 2, 3)), keep=Settings(keep_checkpoints=2))
  saved = Checkpoints(tmp_path)
  assert saved.steps() == [2, 3]
  saved.close()
  names = {path.name for path in (tmp_path / 'checkpoints').iterdir()}
  assert names == {'2', '3'}


def test_the_best_and_every_so_many_stay_besides(tmp_path):
  saved = Checkpoints(tmp_path, _BEST)
  scores = {1: 0.1, 2: 0.5, 3: 0.5, 5: 0.2, 7: 0.4}
  known = ()
  for step in range(1, 8):
    if step in scores:
      known += ((step, scores[step]),)
    saved.save(_state(step, devices=1), POSITION._replace(scores=known))
    saved.wait()
    if step == 6:
      # Another process goes on, and knows what was the best.
      saved.close()
      saved = Checkpoints(tmp_path, _BEST)
  saved.close()
  # The newest; the older of the two best; that of a multiple of four.
  assert saved.steps() == [2, 4, 7]


def test_a_saved_step_is_not_saved_again(tmp_path):
  _save(tmp_path, _state(1))
  other = _state(1).replace(puzzle_table=_state(2).puzzle_table)
  _save(tmp_path, other)
  saved = Checkpoints(tmp_path)
  state = saved.restore(1, _like())
  _assert_same(state, _state(1))
  saved.close()


def test_a_checkpoint_that_was_not_finished_does_not_count(tmp_path):
  _save(tmp_path, _state(1))
  # What a process leaves that is killed while it writes.
  part = tmp_path / 'checkpoints' / '2.orbax-checkpoint-tmp'
  (part / 'weights').mkdir(parents=True)
  saved = Checkpoints(tmp_path)
  assert saved.find() == 1
  saved.position(1)
  saved.close()
  assert part.exists()
  # Who trains clears it up.
  _save(tmp_path, _state(2))
  assert not part.exists()
  assert saved.find() == 2


def test_a_checkpoint_of_a_newer_format_is_refused(tmp_path, monkeypatch):
  newer = checkpoints.FORMAT_VERSION + 1
  monkeypatch.setattr(checkpoints, 'FORMAT_VERSION', newer)
  _save(tmp_path, _state(1))
  monkeypatch.undo()
  saved = Checkpoints(tmp_path)
  with pytest.raises(ConfigError, match=f'format {newer}'):
    saved.position(1)
  saved.close()


def test_a_state_without_a_puzzle_table_is_saved(tmp_path):
  _save(tmp_path, _state(1, puzzle_emb_ndim=0))
  saved = Checkpoints(tmp_path)
  state = saved.restore(1, _like(puzzle_emb_ndim=0))
  assert state.puzzle_table.shape == (24, 0)
  _assert_same(state, _state(1, puzzle_emb_ndim=0))
  saved.close()


def _truncate(path):
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _flip(path):
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1
  path.write_bytes(content)


_DAMAGES = {
  'truncated': _truncate,
  'emptied': lambda path: path.write_bytes(b''),
  'removed': lambda path: path.unlink(),
  'flipped': _flip,
}


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  """As `workdir`, of one device and small, to be copied and damaged."""
  workdir = tmp_path_factory.mktemp('whole')
  _save(workdir, _state(3, devices=1), _state(5, devices=1))
  return workdir


@pytest.mark.parametrize(
  'damage',
  [
    'truncated',
    *(
      pytest.param(name, marks=pytest.mark.slow)
      for name in _DAMAGES
      if name != 'truncated'
    ),
  ],
)
def test_each_damaged_file_leads_to_the_checkpoint_before(
  whole, tmp_path, damage, caplog
):
  """Or is one that nothing is read from: the state is the same without it."""
  newest = whole / 'checkpoints' / '5'
  files = [p.relative_to(newest) for p in newest.rglob('*') if p.is_file()]
  assert len(files) > 20
  used = []
  for number, file in enumerate(files):
    workdir = tmp_path / str(number)
    shutil.copytree(whole, workdir)
    _DAMAGES[damage](workdir / 'checkpoints' / '5' / file)
    caplog.clear()
    saved = Checkpoints(workdir, Settings(keep_checkpoints=3))
    step = saved.find()
    if step == 3:
      assert 'checkpoints/5 is damaged' in caplog.text
      assert 'step 3 is used instead' in caplog.text
      assert (workdir / 'damaged' / 'step_5').is_dir()
      assert saved.steps() == [3]
    else:
      used.append(str(file))
      # Nothing moves, nothing is said; and it is what was saved.
      _assert_same(saved.restore(5, _like(1)), _state(5, devices=1))
    saved.close()
    shutil.rmtree(workdir)
  assert set(used) <= {'_CHECKPOINT_METADATA', 'commit_success.txt'}


def test_a_file_too_many_is_damage_unless_it_is_hidden(whole, tmp_path):
  shutil.copytree(whole / 'checkpoints' / '5', tmp_path / '5')
  (tmp_path / '5' / '.DS_Store').write_text('a desktop was here')
  assert checkpoints.find_damage(tmp_path / '5') is None
  (tmp_path / '5' / 'weights' / 'more').write_text('')
  assert 'weights/more is not listed' in checkpoints.find_damage(tmp_path / '5')


def test_sha256sum_agrees(whole):
  subprocess.run(
    ['sha256sum', '--check', '--strict', '--quiet', 'SHA256SUMS'],
    cwd=whole / 'checkpoints' / '5',
    check=True,
  )


def test_reading_moves_nothing(whole, tmp_path):
  shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
  (tmp_path / 'checkpoints' / '5' / 'weights' / 'manifest.ocdbt').unlink()
  saved = Checkpoints(tmp_path)
  assert saved.find() == 3
  assert saved.steps() == [3, 5]
  with pytest.raises(ConfigError, match=r'5: weights/manifest.ocdbt is miss'):
    saved.find(5)
  saved.close()


def test_where_all_are_damaged_nothing_is_begun_anew(whole, tmp_path):
  shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
  for step in ('3', '5'):
    _truncate(tmp_path / 'checkpoints' / step / 'position' / 'metadata')
  saved = Checkpoints(tmp_path, Settings(keep_checkpoints=3))
  with pytest.raises(ConfigError, match=r'damaged: 5: .*; 3: .* no other'):
    saved.find()
  assert saved.steps() == [3, 5]
  saved.close()


def test_a_step_that_was_damaged_is_saved_again(whole, tmp_path):
  """And damaged again: neither is lost."""
  shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
  for name in ('step_5', 'step_5_2'):
    _flip(tmp_path / 'checkpoints' / '5' / 'weights' / '_METADATA')
    saved = Checkpoints(tmp_path, Settings(keep_checkpoints=3))
    assert saved.find() == 3
    assert (tmp_path / 'damaged' / name).is_dir()
    saved.save(_state(5, devices=1), POSITION)
    saved.close()
    _assert_same(saved.restore(5, _like(1)), _state(5, devices=1))


def test_another_batch_size_needs_no_carry(whole):
  saved = Checkpoints(whole)
  state = saved.restore(5, _like(1).replace(carry=None))
  assert state.carry is None
  _assert_same(state, _state(5, devices=1).replace(carry=None))
  saved.close()


def test_no_room_is_told_before_anything_is_written(
  whole, tmp_path, monkeypatch
):
  shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
  full = shutil.disk_usage(tmp_path)._replace(free=2**19)
  monkeypatch.setattr(shutil, 'disk_usage', lambda _: full)
  saved = Checkpoints(tmp_path, Settings(keep_checkpoints=1))
  with pytest.raises(
    ConfigError, match=r'0 MiB are free .* needs 2 MiB; that of step 5 is whole'
  ):
    saved.save(_state(7, devices=1), POSITION)
  saved.close()
  names = {path.name for path in (tmp_path / 'checkpoints').iterdir()}
  assert names == {'3', '5'}


# What orbax's other threads were about to write.
@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')
def test_a_disk_that_fills_up_keeps_the_checkpoint_before(
  mount, monkeypatch, caplog
):
  disk = mount('size=2m')
  saved = Checkpoints(disk, Settings(keep_checkpoints=1))
  saved.save(_state(1, devices=1), POSITION)
  # It was free when looked at, and is not when it is written.
  empty = shutil.disk_usage(disk)
  large = empty._replace(free=2**30)
  monkeypatch.setattr(shutil, 'disk_usage', lambda _: large)
  (disk / 'others').write_bytes(b'x' * (empty.free - 30_000))
  saved.save(_state(2, devices=1), POSITION)
  with pytest.raises(
    ConfigError, match='that of step 1 is whole; mend that or free some'
  ):
    saved.wait()
  saved = Checkpoints(disk, Settings(keep_checkpoints=1))
  assert saved.find() == 1
  _assert_same(saved.restore(1, _like(1)), _state(1, devices=1))
  assert not [r for r in caplog.records if r.levelno >= logging.WARNING]
  # When there is room again, the same start goes on.
  (disk / 'others').unlink()
  saved.save(_state(2, devices=1), POSITION)
  saved.close()
  names = {path.name for path in (disk / 'checkpoints').iterdir()}
  assert names == {'2'}


def test_one_that_is_being_cleared_away_is_not_called_damaged(tmp_path):
  for step in (4, 8):
    (tmp_path / str(step)).mkdir()
  threading.Timer(0.3, (tmp_path / '4').rmdir).start()
  assert checkpoints.was_cleared(tmp_path / '4')
  assert not checkpoints.was_cleared(tmp_path / '8')
  assert checkpoints.was_cleared(tmp_path / '9')
