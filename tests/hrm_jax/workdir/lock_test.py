"""One run in a workdir: held, released, and taken over by real processes."""

import contextlib
import errno
import fcntl
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import threading
import time

import pytest

from data_pipelines.errors import ConfigError
from hrm_jax.workdir import lock as workdir_lock
from tests import devices

_ROOT = pathlib.Path(__file__).parents[3]

# Holds a workdir until its input ends; 'elsewhere' as another machine does.
_HOLD = """
import errno, fcntl, sys
from data_pipelines import files
from hrm_jax.workdir import lock as workdir_lock
if sys.argv[2] == 'elsewhere':
  def flock(*_):
    raise OSError(errno.ENOTSUP, 'no locks')
  fcntl.flock = flock
  workdir_lock._kernel = lambda _: 'another'
with workdir_lock.hold(files.place(sys.argv[1]), beat=0.05):
  print('ready', flush=True)
  sys.stdin.read()
"""

# One of two processes of a run that wants a workdir, and then another.
_JOIN = """
import contextlib, pathlib, sys
import jax
from data_pipelines import errors
from hrm_jax.parallel import processes
from hrm_jax.workdir import lock as workdir_lock
jax.distributed.initialize(f'localhost:{sys.argv[2]}', 2, int(sys.argv[1]))
with contextlib.ExitStack() as stack:
  for workdir in map(pathlib.Path, sys.argv[3:]):
    def claim():
      stack.enter_context(workdir_lock.hold(workdir))
    try:
      processes.from_first(claim)
      print('held by', (workdir / 'lock').read_text())
    except errors.ConfigError as error:
      print('refused', error)
  # It is released when all have looked.
  processes.from_first(lambda: None)
"""


def _python(script, *arguments):
  return subprocess.Popen(
    [sys.executable, '-c', script, *map(str, arguments)],
    cwd=_ROOT,
    env=os.environ | {'XLA_FLAGS': devices.xla_flags(1)},
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


@contextlib.contextmanager
def _holder(workdir, where='here'):
  """A process that holds a workdir."""
  with _python(_HOLD, workdir, where) as process:
    try:
      assert process.stdout.readline() == 'ready\n', process.stderr.read()
      yield process
    finally:
      process.kill()


@contextlib.contextmanager
def _impatient(workdir):
  """Holds a workdir, and is soon sure that others have ended."""
  with workdir_lock.hold(workdir, beat=60, patience=0.4):
    yield


def _record(workdir):
  return json.loads((workdir / 'lock').read_text())


def _leave(workdir, **changes):
  """The lock of a process that was killed, as it looks with changes."""
  with _holder(workdir) as process:
    process.kill()
    process.wait()
  record = _record(workdir) | changes
  (workdir / 'lock').write_text(json.dumps(record))
  return record


@pytest.fixture
def at_once(monkeypatch):
  """Nothing is waited for."""

  def sleep(_):
    raise AssertionError('waits')

  monkeypatch.setattr(time, 'sleep', sleep)


@pytest.fixture
def without_locks(monkeypatch):
  """A file system that has none."""

  def flock(*_):
    raise OSError(errno.ENOTSUP, 'no locks')

  monkeypatch.setattr(fcntl, 'flock', flock)


def test_a_second_run_is_refused_at_once_and_told_by_whom(tmp_path, at_once):
  with _holder(tmp_path) as process:
    before = _record(tmp_path)
    # Twice: being refused releases nothing.
    for _ in range(2):
      with pytest.raises(ConfigError) as error, workdir_lock.hold(tmp_path):
        pass
    message = str(error.value)
    assert re.fullmatch(
      f'{tmp_path} is in use by process {process.pid} on '
      rf'{socket.gethostname()} \(since .*\+00:00\); .* stop that run',
      message,
    )
    assert '\n' not in message
    assert _record(tmp_path) | {'count': 0} == before | {'count': 0}


def test_a_run_that_has_ended_leaves_nothing_to_take_over(
  tmp_path, at_once, caplog
):
  with _holder(tmp_path) as process:
    _, errors = process.communicate()
  assert process.returncode == 0, errors
  assert not (tmp_path / 'lock').read_bytes()
  with workdir_lock.hold(tmp_path):
    assert 'Taking over' not in caplog.text


def test_a_second_run_in_the_same_process_is_refused(tmp_path, at_once):
  with (
    workdir_lock.hold(tmp_path),
    pytest.raises(ConfigError, match=f'process {os.getpid()} '),
    workdir_lock.hold(tmp_path),
  ):
    pass


def test_a_killed_run_is_taken_over_at_once(tmp_path, at_once, caplog):
  pid = _leave(tmp_path)['process']
  with workdir_lock.hold(tmp_path):
    assert f'Taking over the lock of process {pid} on' in caplog.text
    assert _record(tmp_path)['process'] == os.getpid()


def test_a_child_that_outlives_its_run_does_not_hold_on(tmp_path, at_once):
  with workdir_lock.hold(tmp_path):
    child = subprocess.Popen(['sleep', '600'], close_fds=False)
  try:
    with workdir_lock.hold(tmp_path):
      pass
  finally:
    child.kill()
    child.wait()


def test_a_run_that_ends_releases_its_workdir(tmp_path, at_once):
  def now():
    return threading.active_count(), os.listdir('/proc/self/fd')

  before = now()
  with workdir_lock.hold(tmp_path / 'a' / 'b'):
    assert now() != before
  assert now() == before
  assert [path.name for path in (tmp_path / 'a' / 'b').iterdir()] == ['lock']
  assert not (tmp_path / 'a' / 'b' / 'lock').read_bytes()
  with pytest.raises(ZeroDivisionError), workdir_lock.hold(tmp_path / 'a'):
    raise ZeroDivisionError
  with workdir_lock.hold(tmp_path / 'a'), workdir_lock.hold(tmp_path / 'c'):
    pass
  assert now() == before


def test_a_run_of_another_machine_is_refused_while_it_lives(
  tmp_path, caplog, without_locks
):
  with _holder(tmp_path, 'elsewhere') as process:
    with (
      pytest.raises(ConfigError, match=f'in use by process {process.pid} on'),
      workdir_lock.hold(tmp_path, patience=60),
    ):
      pass
    assert 'waiting up to 60 s whether it still runs' in caplog.text
    assert _record(tmp_path)['kernel'] == 'another'
    process.kill()
    process.wait()
    caplog.clear()
    with _impatient(tmp_path):
      assert 'waiting' in caplog.text
      assert 'Taking over' in caplog.text
      assert _record(tmp_path)['process'] == os.getpid()


def test_a_run_of_another_machine_that_ends_is_not_waited_for(
  tmp_path, caplog, without_locks, monkeypatch
):
  with _holder(tmp_path, 'elsewhere') as process:
    process.kill()

  def sleep(_):
    # It was saving.
    (tmp_path / 'lock').write_text('')

  monkeypatch.setattr(time, 'sleep', sleep)
  with workdir_lock.hold(tmp_path, patience=60):
    pass
  assert 'waiting' in caplog.text
  assert 'Taking over' not in caplog.text


@pytest.mark.parametrize('count', [0, 1])
def test_a_kernels_lock_is_not_trusted_for_another_machine(
  tmp_path, caplog, monkeypatch, count
):
  """It may be of this machine alone, as gcsfuse's are."""
  record = _leave(tmp_path, kernel='another', host='far')
  real = time.sleep

  def sleep(seconds):
    real(seconds)
    record['count'] += count
    (tmp_path / 'lock').write_text(json.dumps(record))

  monkeypatch.setattr(time, 'sleep', sleep)
  if count:
    with pytest.raises(ConfigError, match=' on far '), _impatient(tmp_path):
      pass
  else:
    with _impatient(tmp_path):
      assert 'Taking over the lock of process' in caplog.text
  assert 'waiting' in caplog.text


def test_without_locks_a_killed_run_is_waited_for(
  tmp_path, caplog, without_locks
):
  _leave(tmp_path)
  with _impatient(tmp_path):
    assert 'waiting' in caplog.text


@pytest.mark.parametrize(
  'text',
  [b'\0' * 90, b'{"process": 7', b'\xff{}', b'[7]', b'{"host": "a"}'],
  ids=['zeros', 'cut off', 'no text', 'no record', 'no process'],
)
def test_a_damaged_lock_is_waited_for(tmp_path, caplog, text):
  (tmp_path / 'lock').write_bytes(text)
  with _impatient(tmp_path):
    assert 'is of an unknown process; waiting' in caplog.text
    assert _record(tmp_path)['process'] == os.getpid()
  assert not (tmp_path / 'lock').read_bytes()


def test_a_workdir_that_cannot_be_written(tmp_path, mount):
  # Even root cannot.
  read_only = mount('ro,size=1m')
  (tmp_path / 'file').write_text('')
  # Of a user's own, say, where others may look.
  for workdir, reason in (
    (tmp_path / 'file', 'File exists'),
    (tmp_path / 'file' / 'run', 'Not a directory'),
    (read_only, 'Read-only file system'),
    (read_only / 'run', 'Read-only file system'),
  ):
    with (
      pytest.raises(ConfigError) as error,
      workdir_lock.hold(workdir),
    ):
      pass
    assert str(error.value) == (
      f'--workdir={workdir} cannot be written ({reason}); name a directory of '
      'yours'
    )


@pytest.mark.slow
def test_the_first_process_of_a_run_holds_for_all(tmp_path):
  taken, free = tmp_path / 'taken', tmp_path / 'free'
  with socket.socket() as probe:
    probe.bind(('localhost', 0))
    port = probe.getsockname()[1]
  with workdir_lock.hold(taken):
    started = [_python(_JOIN, n, port, taken, free) for n in range(2)]
    outputs = [process.communicate(timeout=60)[0] for process in started]
  # Gloo speaks too, when it likes.
  refused, held = zip(
    *(re.findall('^(?:refused|held) .*', o, re.M) for o in outputs), strict=True
  )
  assert f'in use by process {os.getpid()} ' in refused[0]
  assert refused[1] == 'refused stopped: process 0 says why'
  assert f'"process": {started[0].pid}' in held[0]
  assert held[0] == held[1]
