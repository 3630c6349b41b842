"""A workdir in a bucket: what its parts promise on a disk holds there too.

Against a server that stores objects as Google's does, fake-gcs-server.
"""

import contextlib
import http.server
import json
import os
import re
import sys
import threading
import time

import jax
import numpy as np
import pytest
from tensorboard.backend.event_processing import event_accumulator

import data_pipelines
from data_pipelines import files
from data_pipelines.errors import Abandoned, ConfigError
from hrm_jax.parallel import sharding
from hrm_jax.settings import Settings
from hrm_jax.training.state import Weights
from hrm_jax.workdir import checkpoints
from hrm_jax.workdir import config as workdir_config
from hrm_jax.workdir import lock as workdir_lock
from hrm_jax.workdir.checkpoints import Checkpoints, Position
from hrm_jax.workdir.metrics import MetricsWriter
from tests.hrm_jax.workdir import lock_test

_NO_CREDENTIALS = re.compile(
  r'gs://bucket: no credentials to use it with \(.*\); `gcloud auth '
  r'application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS'
)
_NO_PERMISSION = re.compile(
  r'gs://bucket: these credentials may not use it \(403 .*lacks.*\); grant '
  r'them roles/storage\.admin on the bucket'
)
_POSITION = Position(3, ['<blank>', 'a'], 'v1')


# The door.


@pytest.mark.parametrize(
  'address', ['gs://', 'gs://bucket', 'gs://bucket/', 'gs:///run']
)
def test_an_address_names_a_directory_in_a_bucket(bucket_server, address):
  with pytest.raises(ConfigError, match='no directory in a bucket; use gs://B'):
    files.place(address)


def test_brackets_are_refused_in_a_bucket_too(in_bucket):
  with pytest.raises(ConfigError, match='could not be read back'):
    workdir_config.place(in_bucket / 'run[1]')


def test_a_bucket_that_is_not_there(bucket_server):
  with pytest.raises(ConfigError) as error:
    files.place('gs://nowhere/run')
  assert str(error.value) == (
    'gs://nowhere: there is no such bucket; create it, or name another'
  )


def test_without_the_extra_one_line_names_it(monkeypatch):
  monkeypatch.delitem(sys.modules, 'data_pipelines.buckets', raising=False)
  monkeypatch.delattr(data_pipelines, 'buckets', raising=False)
  monkeypatch.setitem(sys.modules, 'gcsfs.retry', None)
  with pytest.raises(ConfigError, match=r"`pip install -e '.\[gcs\]'`$") as e:
    files.place('gs://bucket/run')
  assert '\n' not in str(e.value)


def test_without_credentials_one_line_says_how_to_get_them(
  bucket_server, monkeypatch, tmp_path
):
  from data_pipelines import buckets

  for name in bucket_server.environment:
    monkeypatch.delenv(name)
  for name in ('HOME', 'CLOUDSDK_CONFIG'):
    monkeypatch.setenv(name, str(tmp_path))
  monkeypatch.setenv('NO_GCE_CHECK', 'true')
  with pytest.raises(ConfigError) as error:
    buckets.bucket.__wrapped__('bucket')
  assert _NO_CREDENTIALS.fullmatch(str(error.value))


@contextlib.contextmanager
def _forbidding(code, methods):
  """The address of a server that answers some methods with this code."""

  class Handler(http.server.BaseHTTPRequestHandler):
    def _answer(self):
      self.rfile.read(int(self.headers.get('Content-Length', 0)))
      status, told = 200, {'name': 'bucket'}
      if self.command in methods:
        status = code
        told = {'error': {'code': code, 'message': 'me lacks storage.x'}}
      elif '/o/' in self.path:
        status, told = 404, {}
      self.send_response(status)
      self.end_headers()
      self.wfile.write(json.dumps(told).encode())

    do_GET = do_POST = _answer

    def log_message(self, *_):
      pass

  server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
  thread = threading.Thread(target=server.serve_forever)
  thread.start()
  yield f'http://127.0.0.1:{server.server_port}'
  server.shutdown()
  thread.join()
  server.server_close()


@pytest.mark.parametrize(
  ('code', 'message'), [(401, _NO_CREDENTIALS), (403, _NO_PERMISSION)]
)
def test_without_permission_one_line_says_so(
  bucket_server, monkeypatch, code, message
):
  from data_pipelines import buckets

  with _forbidding(code, ('GET', 'POST')) as url:
    monkeypatch.setenv('STORAGE_EMULATOR_HOST', url)
    with pytest.raises(ConfigError) as error:
      buckets.bucket.__wrapped__('bucket')
  assert message.fullmatch(str(error.value))


def test_a_bucket_that_may_only_be_read(in_bucket, monkeypatch):
  from data_pipelines import buckets

  with _forbidding(403, ('POST',)) as url:
    monkeypatch.setenv('STORAGE_EMULATOR_HOST', url)
    read_only = buckets.bucket.__wrapped__('bucket')
    monkeypatch.setattr(buckets, 'bucket', lambda _: read_only)
    with (
      pytest.raises(ConfigError, match=r'cannot be written \(403 .*\); name a'),
      workdir_lock.hold(in_bucket),
    ):
      pass


# The lock.


def _record(workdir):
  return json.loads((workdir / 'lock').read_text())


def _leave(workdir, **changes):
  """The lock of a process that was killed, as it looks with changes."""
  with lock_test._holder(workdir) as process:
    process.kill()
    process.wait()
  record = _record(workdir) | changes
  (workdir / 'lock').write_text(json.dumps(record))
  return record


def test_a_second_run_is_refused_at_once(in_bucket, caplog):
  with lock_test._holder(in_bucket) as process:
    with (
      pytest.raises(ConfigError, match=f'in use by process {process.pid} on'),
      workdir_lock.hold(in_bucket, patience=600),
    ):
      pass
    process.communicate()
  # It has released it.
  assert not (in_bucket / 'lock').read_bytes()
  with (
    workdir_lock.hold(in_bucket) as held,
    pytest.raises(ConfigError, match=f'process {os.getpid()} '),
    workdir_lock.hold(in_bucket, patience=600),
  ):
    pass
  held()
  assert 'waiting' not in caplog.text


def test_a_killed_run_of_this_machine_is_taken_over_at_once(in_bucket, caplog):
  pid = _leave(in_bucket)['process']
  with workdir_lock.hold(in_bucket, patience=5):
    assert 'waiting' not in caplog.text
    assert f'Taking over the lock of process {pid} on' in caplog.text
    assert _record(in_bucket)['process'] == os.getpid()


def test_a_run_of_another_machine_is_refused_while_it_lives(in_bucket, caplog):
  _leave(in_bucket, kernel='another')
  with workdir_lock.hold(in_bucket, patience=0.4):
    assert 'waiting' in caplog.text
    assert 'Taking over' in caplog.text
  record = _leave(in_bucket, kernel='another')
  counting = threading.Event()

  def count():
    while not counting.wait(0.1):
      record['count'] += 1
      (in_bucket / 'lock').write_text(json.dumps(record))

  thread = threading.Thread(target=count)
  thread.start()
  try:
    with (
      pytest.raises(ConfigError, match=f'by process {record["process"]} on'),
      workdir_lock.hold(in_bucket, patience=60),
    ):
      pass
  finally:
    counting.set()
    thread.join()


def test_of_two_that_start_at_once_one_gets_it(in_bucket):
  one, two = (workdir_lock._Object(in_bucket / 'lock') for _ in range(2))
  # Both have seen that it is free.
  assert one.read() == two.read() == b''
  one.write(b'{"process": 1}')
  with pytest.raises(ConfigError, match='is in use by'):
    two.write(b'{"process": 2}')
  assert one.read() == b'{"process": 1}'
  # Of what was sent and never answered the sender knows that it is its own.
  one._generation = 7
  one.write(b'{"process": 1, "count": 1}')
  assert one.read() == b'{"process": 1, "count": 1}'
  one._generation = 7
  one.write(b'')
  assert one.read() == b''
  for lock in (one, two):
    lock.close()


def test_a_process_that_has_lost_its_lock_is_told(in_bucket):
  with workdir_lock.hold(in_bucket, beat=0.05) as held:
    held()
    other = _record(in_bucket) | {'process': 7, 'host': 'far'}
    (in_bucket / 'lock').write_text(json.dumps(other))
    with pytest.raises(Abandoned, match='is in use by process 7 on far'):
      for _ in range(200):
        held()
        time.sleep(0.05)
  # And what is another's stays.
  assert _record(in_bucket) == other


def test_a_process_without_its_bucket_ends_before_others_take_over(
  in_bucket, bucket_server
):
  with workdir_lock.hold(in_bucket, beat=0.1, patience=1) as held:
    bucket_server.halt(True)
    try:
      with pytest.raises(
        Abandoned, match=r'cannot be reached for \d s; the same'
      ):
        for _ in range(100):
          held()
          time.sleep(0.05)
    finally:
      bucket_server.halt(False)


# Metrics.


def _lines(workdir):
  with contextlib.suppress(FileNotFoundError):
    text = (workdir / 'metrics.jsonl').read_text()
    return [json.loads(line)['step'] for line in text.splitlines()]
  return []


def test_lines_are_kept_before_a_checkpoint_and_come_again_once(
  in_bucket, bucket_server
):
  killed = MetricsWriter(in_bucket)
  assert killed.forget_after(0, 0) == 0
  for step in (1, 2, 3):
    killed.write(step, {'loss': 1 / step})
    if step == 2:
      assert _lines(in_bucket) == []
      killed.sync()
  # It ends here: what the checkpoint of step 2 counts on is there.
  assert _lines(in_bucket) == [1, 2]
  with MetricsWriter(in_bucket) as writer:
    assert writer.forget_after(1, 1) == 1
    assert _lines(in_bucket) == [1]
    for step in (2, 3, 4):
      writer.write(step, {'loss': 1 / step})
    writer.write(4, {'eval/exact': 0.5})
    assert writer.evaluation_of(4) == {'step': 4, 'eval/exact': 0.5}
  assert _lines(in_bucket) == [1, 2, 3, 4, 4]
  found = event_accumulator.EventAccumulator(
    str(bucket_server.objects / in_bucket.name / 'tensorboard')
  )
  assert [s.step for s in found.Reload().Scalars('loss')] == [1, 2, 3, 4]


def test_who_looks_on_sees_lines_from_time_to_time(in_bucket, monkeypatch):
  writer = MetricsWriter(in_bucket)
  writer.write(1, {'loss': 1.0})
  assert _lines(in_bucket) == []
  now = time.monotonic() + 61
  monkeypatch.setattr(time, 'monotonic', lambda: now)
  writer.write(2, {'loss': 0.5})
  assert _lines(in_bucket) == [1, 2]


def test_an_error_leaves_its_lines_but_not_where_another_runs(in_bucket):
  for error, steps in ((Abandoned, []), (ConfigError, [1])):
    with pytest.raises(error), MetricsWriter(in_bucket) as writer:
      writer.write(1, {'loss': 1.0})
      raise error('')
    assert _lines(in_bucket) == steps


# Checkpoints.


def _mesh():
  return sharding.make_mesh(jax.devices()[:2])


def _weights(step):
  rng = np.random.default_rng(step)
  table = rng.normal(size=(600, 512)).astype(np.float32)
  placed = jax.device_put(table, sharding.place(_mesh(), 'puzzles'))
  return {'params': {'a': rng.normal(size=7).astype(np.float32)}}, placed


def _save(workdir, *steps, keep=10):
  with contextlib.closing(
    Checkpoints(workdir, Settings(keep_checkpoints=keep))
  ) as saved:
    for step in steps:
      saved.save_weights(step, *_weights(step), _POSITION)


def _restore(workdir, step):
  saved = Checkpoints(workdir)
  like = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(
      x.shape,
      x.dtype,
      sharding=getattr(x, 'sharding', sharding.place(_mesh())),
    ),
    _weights(step),
  )
  return saved.restore_weights(step, Weights(*like)), saved.restore_rows(
    step, like[1], np.array([599, 0, 3])
  )


def test_checkpoints_come_back_bit_for_bit_and_the_oldest_go(in_bucket):
  _save(in_bucket, 1, 2, 3, keep=2)
  saved = Checkpoints(in_bucket)
  assert saved.steps() == [2, 3]
  assert saved.find() == 3
  assert saved.position(3) == _POSITION
  for step in (2, 3):
    found, rows = _restore(in_bucket, step)
    variables, table = _weights(step)
    np.testing.assert_array_equal(
      found.variables['params']['a'], variables['params']['a']
    )
    np.testing.assert_array_equal(found.puzzle_table, table)
    np.testing.assert_array_equal(rows[:3], np.asarray(table)[[599, 0, 3]])


@pytest.mark.parametrize('how', ['flipped', 'removed', 'added'])
def test_a_damaged_one_is_found_and_put_aside(in_bucket, caplog, how):
  _save(in_bucket, 1, 2)
  newest = in_bucket / 'checkpoints' / '2'
  (name, *_) = [n for n in files.names(newest) if n.startswith('weights/d/')]
  match how:
    case 'flipped':
      content = bytearray((newest / name).read_bytes())
      content[5] ^= 1
      (newest / name).write_bytes(content)
    case 'removed':
      (newest / name).unlink()
    case 'added':
      (newest / 'weights' / 'more').write_bytes(b'x')
  with contextlib.closing(Checkpoints(in_bucket, Settings())) as saved:
    assert saved.find() == 1
    assert saved.steps() == [1]
  assert 'step 1 is used instead; moved to' in caplog.text
  assert 'SHA256SUMS' in files.names(in_bucket / 'damaged' / 'step_2')


def test_one_that_was_not_finished_does_not_count_and_goes(in_bucket):
  _save(in_bucket, 1, 2)
  (in_bucket / 'checkpoints' / '2' / 'commit_success.txt').unlink()
  assert Checkpoints(in_bucket).steps() == [1]
  assert Checkpoints(in_bucket).find() == 1
  _save(in_bucket, 3)
  assert Checkpoints(in_bucket).steps() == [1, 3]
  assert files.names(in_bucket / 'checkpoints' / '2') == []


def test_who_waits_for_a_save_is_told_that_the_workdir_is_lost(
  in_bucket, monkeypatch
):
  lost, reached = threading.Event(), threading.Event()

  def held():
    if lost.is_set():
      raise Abandoned('lost')

  def stuck(_):
    lost.set()
    assert reached.wait(60)

  saved = Checkpoints(in_bucket, Settings(), held)
  saved.save_weights(1, *_weights(1), _POSITION)
  monkeypatch.setattr(checkpoints, 'seal', stuck)
  saved.save_weights(2, *_weights(2), _POSITION)
  try:
    with pytest.raises(Abandoned, match='lost'):
      saved.wait()
    # It waits for nothing.
    saved.close()
  finally:
    reached.set()
