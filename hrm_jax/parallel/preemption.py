"""Notices that the machine will be taken away, and when all processes stop.

  with preemption.listening(platform) as notice:
    agreement = preemption.Agreement(notice, mesh)
    for ...:
      if agreement.poll():
        ...save; sys.exit(preemption.EXIT_CODE)

The first SIGTERM or SIGINT asks for a checkpoint and an end; a second one stops
at once. On Google Cloud the metadata server tells earlier than the signal.
"""

import contextlib
import http.client
import os
import signal
import threading
import time
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
# GNU timeout and others signal the process and then its group: that is one
# notice. Nobody presses Ctrl-C twice so fast.
_ONE_NOTICE_SECONDS = 0.2

# Both keys are documented for virtual machines, which TPU VMs are:
# https://cloud.google.com/compute/docs/instances/create-use-spot ("preempted"
# turns TRUE) and
# https://cloud.google.com/compute/docs/metadata/getting-live-migration-notice
# (machines with accelerators cannot migrate, and end).
_METADATA = {
  'preempted': 'TRUE',
  'maintenance-event': 'TERMINATE_ON_HOST_MAINTENANCE',
}
# The server answers after that long without a change.
_WAIT_SECONDS = 60
_RETRY_SECONDS = 10.0


class Notice:
  """Whether this process was told to stop.

  Attributes:
    reason: who told, such as 'SIGTERM'; empty as long as nobody did.
  """

  def __init__(self):
    self.reason = ''

  @property
  def received(self) -> bool:
    return bool(self.reason)

  def give(self, reason: str) -> None:
    """Tells the process to stop; the first reason stays."""
    if self.received:
      return
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
      for key, value in _METADATA.items():
        threading.Thread(
          target=_watch_metadata,
          args=(notice, ended, key, value),
          name=f'preemption-{key}',
          daemon=True,
        ).start()
    yield notice


class Agreement:
  """Lets all processes of a mesh stop at the same step."""

  def __init__(self, notice: Notice, mesh: Mesh):
    self._notice = notice
    self._agreed, self._pending = False, None
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
    if self._agreed:
      return True
    local, size = self._flags
    flags = jax.make_array_from_process_local_data(
      self._split, np.full(local, self._notice.received), (size,)
    )
    pending, self._pending = self._pending, self._any(flags)
    self._agreed = pending is not None and bool(pending)
    return self._agreed


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
      numbers = [n for n in numbers if n in _SIGNALS]
      if not numbers:
        continue
      if since is None:
        since = time.monotonic()
        notice.give(signal.Signals(numbers[0]).name)
      elif time.monotonic() - since > _ONE_NOTICE_SECONDS:
        os._exit(128 + numbers[0])

  # What ignores a signal (nohup, jobs in the background of a script) goes on
  # to do so. JAX's own SIGTERM handler, which it sets in C++ where processes
  # were joined, is unknown to Python: the default comes back in its place.
  before = {
    number: signal.getsignal(number)
    for number in _SIGNALS
    if signal.getsignal(number) != signal.SIG_IGN
  }
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
  path = f'/computeMetadata/v1/instance/{key}'
  query = ''
  while not ended.is_set() and not notice.received:
    pause = _RETRY_SECONDS
    try:
      connection = http.client.HTTPConnection(host, timeout=_WAIT_SECONDS + 10)
      with contextlib.closing(connection):
        connection.request(
          'GET', path + query, headers={'Metadata-Flavor': 'Google'}
        )
        answer = connection.getresponse()
        found = answer.read(100).decode(errors='replace').strip()
        etag = answer.headers.get('ETag')
      if answer.status == 200:
        if found == value and not ended.is_set():
          notice.give(f'{key}={value} of Google Cloud')
        if etag:
          query = (
            f'?wait_for_change=true&timeout_sec={_WAIT_SECONDS}'
            f'&last_etag={etag}'
          )
          pause = 1.0
    except (OSError, http.client.HTTPException, ValueError):
      query = ''
    ended.wait(pause)
