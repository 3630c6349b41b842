"""Signals and the cloud's notices, in processes of their own."""

import contextlib
import http.server
import math
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from hrm_jax.parallel import preemption, sharding
from tests import devices

_ROOT = pathlib.Path(__file__).parents[3]

# Waits for the notice as a training loop does.
_LOOP = """
import sys, time
from hrm_jax.parallel import preemption
with preemption.listening('cpu') as notice:
  print('ready', flush=True)
  while not notice.received:
    time.sleep(0.01)
  print('saving', notice.reason, flush=True)
  time.sleep(float(sys.argv[1]))
sys.exit(preemption.EXIT_CODE)
"""

# The main thread sits in C++ and cannot run a handler of Python's.
_COMPILING = """
import os, threading, time
import jax, jax.numpy as jnp
from hrm_jax.parallel import preemption
def long(x):
  for number in range(500):
    x = jnp.sort(jnp.sin(x) + number)
  return x
lowered = jax.jit(long).lower(jnp.ones(8))
with preemption.listening('cpu') as notice:
  def look():
    while not notice.received:
      time.sleep(0.01)
    os._exit(7)
  threading.Thread(target=look, daemon=True).start()
  print('ready', flush=True)
  lowered.compile()
  os._exit(8)
"""

# Each process prints at which poll it stops; one of them is told.
_AGREE = """
import sys, time
import jax
from hrm_jax.parallel import preemption, sharding
from hrm_jax.settings import MeshSettings
number = int(sys.argv[1])
jax.distributed.initialize(f'localhost:{sys.argv[2]}', 2, number)
mesh = sharding.make_mesh(settings=MeshSettings(data=1, tensor=4))
with preemption.listening('cpu') as notice:
  agreement = preemption.Agreement(notice, mesh)
  for step in range(10_000):
    if step == 5:
      print('ready', flush=True)
    if agreement.poll():
      break
    time.sleep(0.01)
  print('stops at', step, 'told', notice.received, flush=True)
  assert agreement.poll()
sys.exit(preemption.EXIT_CODE)
"""


@contextlib.contextmanager
def _python(script, *arguments, prefix=(), count=1, **variables):
  """A process, once it says that it is ready."""
  environment = os.environ | variables
  environment['XLA_FLAGS'] = devices.xla_flags(count)
  process = subprocess.Popen(
    [*prefix, sys.executable, '-c', script, *map(str, arguments)],
    cwd=_ROOT,
    env=environment,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  try:
    yield process
  finally:
    process.kill()
    process.communicate()


def _ready(process):
  for line in process.stdout:
    # Gloo writes there that it is connected.
    if line == 'ready\n':
      return
  pytest.fail(process.stderr.read())


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_asks_for_a_checkpoint(number):
  with _python(_LOOP, 0) as process:
    _ready(process)
    process.send_signal(number)
    output, errors = process.communicate(timeout=60)
  assert output == f'saving {number.name}\n'
  assert process.returncode == preemption.EXIT_CODE == 75
  (line,) = [line for line in errors.splitlines() if 'second signal' in line]
  assert line.endswith(
    f'{number.name}: saving a checkpoint and stopping; a second signal stops '
    'at once'
  )


def test_the_second_signal_stops_at_once():
  with _python(_LOOP, 600) as process:
    _ready(process)
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == 'saving SIGTERM\n'
    # Well after what supervisors send twice.
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 128 + signal.SIGINT


def test_timeout_which_signals_twice_is_one_notice():
  """GNU timeout signals the command, and then the group that it is in."""
  prefix = ('timeout', '--preserve-status', '600')
  with _python(_LOOP, 0.5, prefix=prefix) as process:
    _ready(process)
    process.terminate()
    assert process.wait(timeout=60) == preemption.EXIT_CODE


def test_a_signal_is_noticed_while_the_main_thread_compiles():
  with _python(_COMPILING) as process:
    _ready(process)
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=120) == 7


def test_nothing_is_left_behind():
  def now():
    handlers = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    fd = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(fd)
    return handlers, fd, threading.active_count(), os.listdir('/proc/self/fd')

  before = now()
  with preemption.listening('cpu') as notice:
    assert now() != before
  assert now() == before
  assert not notice.received


def test_a_signal_that_the_process_ignores_stays_ignored():
  before = signal.signal(signal.SIGINT, signal.SIG_IGN)
  try:
    with preemption.listening('cpu'):
      assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
      assert callable(signal.getsignal(signal.SIGTERM))
  finally:
    signal.signal(signal.SIGINT, before)


def test_outside_of_the_main_thread_nothing_fires():
  found = []

  def work():
    before = signal.getsignal(signal.SIGTERM)
    with preemption.listening('cpu') as notice:
      found.append(signal.getsignal(signal.SIGTERM) is before)
      found.append(notice.received)

  thread = threading.Thread(target=work)
  thread.start()
  thread.join()
  assert found == [True, False]


def test_time_gives_the_notice_and_only_inside():
  notice, other = preemption.Notice(), preemption.Notice()
  with notice.after(0.0, 'the limit'):
    while not notice.received:
      time.sleep(0.01)
  assert notice.reason == 'the limit'
  for seconds in (math.inf, 3600.0):
    with other.after(seconds, 'late'):
      pass
  for timer in threading.enumerate():
    if isinstance(timer, threading.Timer):
      timer.join()
  assert not other.received


def test_one_process_asks_its_notice_alone():
  notice = preemption.Notice()
  agreement = preemption.Agreement(notice, sharding.make_mesh())
  assert not agreement.poll()
  notice.give('SIGTERM')
  assert agreement.poll()


def test_two_processes_stop_at_the_same_step():
  """After JAX has set its own handler, and where both feed the same rows."""
  with socket.socket() as probe:
    probe.bind(('localhost', 0))
    port = probe.getsockname()[1]
  with (
    _python(_AGREE, 0, port, count=2) as first,
    _python(_AGREE, 1, port, count=2) as second,
  ):
    _ready(first)
    _ready(second)
    second.send_signal(signal.SIGTERM)
    outputs = [p.communicate(timeout=60) for p in (first, second)]
  steps = [output.split()[2] for output, _ in outputs]
  assert steps[0] == steps[1], outputs
  told = [output.split()[4] for output, _ in outputs]
  assert told == ['False', 'True']
  assert [p.returncode for p in (first, second)] == [75, 75], outputs
  lines = [errors.splitlines() for _, errors in outputs]
  assert ['SIGTERM' in line for line in lines[1]].count(True) == 1, outputs


class _Metadata(http.server.BaseHTTPRequestHandler):
  """As much of Google Cloud's metadata server as answers one key.

  Its attribute `values` is what the keys have in turn; the last one stays.
  """

  def do_GET(self):
    path, _, query = self.path.partition('?')
    key = path.removeprefix('/computeMetadata/v1/instance/')
    assert self.headers['Metadata-Flavor'] == 'Google'
    server = self.server
    server.asked.append((key, query))
    values = server.values.get(key, ['NONE'])
    parameters = dict(pair.split('=') for pair in query.split('&') if pair)
    version = 0
    if parameters.get('wait_for_change') == 'true':
      version = int(parameters['last_etag']) + 1
    if version >= len(values):
      server.ended.wait(int(parameters['timeout_sec']))
      version = len(values) - 1
    body = values[version].encode()
    self.send_response(200 if body else 503)
    self.send_header('ETag', str(version))
    self.send_header('Content-Length', str(len(body)))
    self.end_headers()
    self.wfile.write(body)

  def log_message(self, *args):
    pass


@pytest.fixture
def metadata(monkeypatch):
  server = http.server.ThreadingHTTPServer(('localhost', 0), _Metadata)
  server.daemon_threads = True
  server.asked, server.ended, server.values = [], threading.Event(), {}
  threading.Thread(target=server.serve_forever, daemon=True).start()
  monkeypatch.setenv('GCE_METADATA_HOST', f'localhost:{server.server_port}')
  yield server
  server.ended.set()
  server.shutdown()
  server.server_close()


def _wait(condition):
  deadline = time.monotonic() + 60
  while not condition():
    assert time.monotonic() < deadline
    time.sleep(0.01)


@pytest.mark.parametrize(
  'key, values',
  [
    ('preempted', ['FALSE', 'TRUE']),
    ('maintenance-event', ['NONE', 'TERMINATE_ON_HOST_MAINTENANCE']),
    # It was taken already when the run began.
    ('preempted', ['TRUE']),
    # Migrating keeps the machine.
    (
      'maintenance-event',
      ['MIGRATE_ON_HOST_MAINTENANCE', 'TERMINATE_ON_HOST_MAINTENANCE'],
    ),
  ],
)
def test_the_clouds_notice(metadata, key, values):
  metadata.values[key] = values
  with preemption.listening('cpu') as notice:
    _wait(lambda: notice.received)
  assert notice.reason == f'{key}={values[-1]} of Google Cloud'
  # Every value was seen once: no value was asked for without waiting.
  asked = [query for name, query in metadata.asked if name == key]
  assert len(asked) == len(values)


@pytest.mark.parametrize('answer', ['', '<html>hello</html>', 'true'])
def test_a_server_that_says_something_else(metadata, answer, monkeypatch):
  monkeypatch.setattr(preemption, '_RETRY_SECONDS', 0.1)
  metadata.values = {key: [answer] for key in preemption._METADATA}
  with preemption.listening('cpu') as notice:
    _wait(lambda: len(metadata.asked) >= 2)
    time.sleep(0.3)
    assert not notice.received
  assert len(metadata.asked) < 20


def test_no_server_at_all(monkeypatch):
  """Nobody asks in a hurry, and the process ends without waiting."""
  monkeypatch.setattr(preemption, '_RETRY_SECONDS', 600)
  tried = []

  def refuse(*args, **settings):
    tried.append(args)
    raise OSError('no route')

  monkeypatch.setattr(socket, 'create_connection', refuse)
  with preemption.listening('tpu') as notice:
    _wait(lambda: len(tried) == 2)
    time.sleep(0.1)
  assert not notice.received
  assert [host for ((host, _), *_) in tried] == ['metadata.google.internal'] * 2
  _wait(lambda: not [t for t in threading.enumerate() if 'preem' in t.name])


def test_a_waiting_server_does_not_delay_the_end(metadata):
  with _python(_LOOP, 0) as process:
    _ready(process)
    _wait(lambda: any(query for _, query in metadata.asked))
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == preemption.EXIT_CODE
  assert not metadata.ended.is_set()


def test_a_signal_after_the_clouds_notice_lets_the_run_save(metadata):
  metadata.values['preempted'] = ['TRUE']
  with _python(_LOOP, 1) as process:
    _ready(process)
    assert process.stdout.readline().startswith('saving preempted=TRUE')
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == preemption.EXIT_CODE
