"""Notices that the machine will be taken away, and when all processes stop.

The first SIGTERM or SIGINT asks for a checkpoint and an end; a second one stops
at once. On Google Cloud the metadata server tells earlier than the signal.
"""

import contextlib
import http.client
import os
import signal
import threading
import time
import urllib.request
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from hrm_jax.parallel import sharding

# 75, "try again later" of sysexits.h: what supervisors start again.
EXIT_CODE = os.EX_TEMPFAIL

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# GNU timeout and others signal the process and then its group: one notice.
_ONE_NOTICE_SECONDS = 0.2

# https://cloud.google.com/compute/docs/instances/create-use-spot and
# https://cloud.google.com/compute/docs/metadata/getting-live-migration-notice
# (machines with accelerators cannot migrate, and end).
_METADATA = {
  'preempted': 'TRUE',
  'maintenance-event': 'TERMINATE_ON_HOST_MAINTENANCE',
}
# The server answers after that long without a change.
_WAIT_SECONDS = 60
_RETRY_SECONDS = 10.0
# No proxy of the environment knows that server.
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Notice:
  """Whether this process was told to stop.

  Attributes:
    reason: who told, such as 'SIGTERM'; empty as long as nobody did.
  """

  reason = ''

  @contextlib.contextmanager
  def after(self, seconds: float, reason: str) -> Iterator[None]:
    """Gives the notice when so much time has passed, if that is inside."""
    # Longer than any machine lives, and not for ever: that is no time to wait.
    wait = min(max(0.0, seconds), threading.TIMEOUT_MAX)
    timer = threading.Timer(wait, self.give, [reason])
    timer.daemon = True
    timer.start()
    try:
      yield
    finally:
      timer.cancel()

  @property
  def received(self) -> bool:
    return bool(self.reason)

  def give(self, reason: str) -> None:
    """Tells the process to stop; the first reason stays."""
    if not self.received:
      self.reason = reason
      # A warning: processes other than the first say nothing less.
      logging.warning(
        '%s: saving a checkpoint and stopping; a second signal stops at once',
        reason,
      )


@contextlib.contextmanager
def listening(platform: str) -> Iterator[Notice]:
  """A notice that signals give, and Google Cloud where it is asked.

  Outside of the main thread (a notebook's worker) signals are left alone.

  Args:
    platform: platform of the devices; the cloud is asked on a 'tpu', and where
      GCE_METADATA_HOST is set.
  """
  notice, ended = Notice(), threading.Event()
  with contextlib.ExitStack() as stack:
    stack.callback(ended.set)
    if threading.current_thread() is threading.main_thread():
      stack.enter_context(_signals(notice))
    if platform == 'tpu' or os.environ.get('GCE_METADATA_HOST'):
      for key_value in _METADATA.items():
        arguments = (notice, ended, *key_value)
        threading.Thread(
          target=_watch_metadata, args=arguments, daemon=True
        ).start()
    yield notice


class Agreement:
  """Lets all processes of a mesh stop at the same step."""

  def __init__(self, notice: Notice, mesh: Mesh):
    self._notice = notice
    self._answer = False
    here = [d.process_index for d in mesh.devices.flat]
    self._alone = len(set(here)) == 1
    self._flags = here.count(jax.process_index()), mesh.size
    # An element per device, whatever the mesh splits rows over.
    self._split = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    self._any = jax.jit(jnp.any, out_shardings=sharding.replicated(mesh))

  def poll(self) -> bool:
    """Whether to stop; every process asks once a step, in the same order.

    With several processes the answer is that of the question before: it has
    come in while the step computed, and nobody waits.
    """
    if self._alone:
      return self._notice.received
    if bool(self._answer):
      return True
    local, size = self._flags
    flags = jax.make_array_from_process_local_data(
      self._split, np.full(local, self._notice.received), (size,)
    )
    self._answer = self._any(flags)
    return False


@contextlib.contextmanager
def _signals(notice: Notice) -> Iterator[None]:
  """Gives the notice at the first signal and ends the process at the second.

  Python runs handlers between two bytecodes of the main thread, which may sit
  in XLA's compiler for minutes. So the handler does nothing: what C writes into
  a pipe at once is read by a thread.
  """
  read, write = os.pipe()
  os.set_blocking(write, False)

  def watch():
    since = None
    while (numbers := os.read(read, 64)) and 0 not in numbers:
      for number in (n for n in numbers if n in _SIGNALS):
        if since is None:
          since = time.monotonic()
          notice.give(signal.Signals(number).name)
        elif time.monotonic() - since > _ONE_NOTICE_SECONDS:
          os._exit(128 + number)

  # What ignores a signal (nohup, background jobs) goes on to do so. JAX's own
  # SIGTERM handler, set in C++ where processes were joined, is unknown to
  # Python: the default comes back in its place.
  handlers = {number: signal.getsignal(number) for number in _SIGNALS}
  before = {n: h for n, h in handlers.items() if h != signal.SIG_IGN}
  thread = threading.Thread(target=watch, name='preemption', daemon=True)
  thread.start()
  wakeup = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
  for number in before:
    signal.signal(number, lambda *_: None)
  try:
    yield
  finally:
    for number, handler in before.items():
      signal.signal(number, handler or signal.SIG_DFL)
    signal.set_wakeup_fd(wakeup)
    os.write(write, b'\0')
    thread.join()
    os.close(read)
    os.close(write)


def _watch_metadata(
  notice: Notice, ended: threading.Event, key: str, value: str
) -> None:
  """Gives the notice when the metadata server has this value.

  https://cloud.google.com/compute/docs/metadata/querying-metadata says how to
  wait for a change. Whatever goes wrong is tried again, and not told: the
  signal comes as well.
  """
  host = os.environ.get('GCE_METADATA_HOST') or 'metadata.google.internal'
  url = f'http://{host}/computeMetadata/v1/instance/{key}'
  query = ''
  while not ended.is_set() and not notice.received:
    pause = _RETRY_SECONDS
    request = urllib.request.Request(
      url + query, headers={'Metadata-Flavor': 'Google'}
    )
    try:
      with _DIRECT.open(request, timeout=_WAIT_SECONDS + 10) as answer:
        found = answer.read(100).decode(errors='replace').strip()
      if found == value and not ended.is_set():
        notice.give(f'{key}={value} of Google Cloud')
      if etag := answer.headers.get('ETag'):
        wait = f'?wait_for_change=true&timeout_sec={_WAIT_SECONDS}'
        query, pause = f'{wait}&last_etag={etag}', 1.0
    except (OSError, http.client.HTTPException, ValueError):
      query = ''
    ended.wait(pause)
