"""One run in a workdir at a time.

`DIR/lock` is locked by the kernel, which frees it with the process however that
ends. Where such locks do not reach other machines (buckets, some network file
systems), its text tells who holds it, with a count that goes on while it lives.
"""

import contextlib
import dataclasses
import datetime
import fcntl
import json
import os
import pathlib
import socket
import threading
import time
from collections.abc import Iterator

from absl import logging

from hrm_jax.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class _Times:
  """Seconds: between two counts, until a holder is dead, between two looks."""

  beat: float = 10.0
  wait: float = 45.0
  look: float = 1.0


@contextlib.contextmanager
def hold(workdir: pathlib.Path) -> Iterator[None]:
  """Keeps other runs out of a workdir, which it makes where there is none.

  Raises:
    ConfigError: another run holds it, or it cannot be written.
  """
  with _hold(workdir, _Times()):
    yield


@contextlib.contextmanager
def _hold(workdir: pathlib.Path, times: _Times) -> Iterator[None]:
  path = workdir / 'lock'
  record = {
    'host': socket.gethostname(),
    'process': os.getpid(),
    'since': datetime.datetime.now(datetime.UTC).isoformat(' ', 'seconds'),
    'machine': _machine(),
    'count': 0,
  }
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    # Neither truncated, which is for its holder, nor left to child processes.
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
  except OSError as error:
    raise _cannot_be_written(workdir, error) from None
  with contextlib.ExitStack() as stack:
    stack.callback(os.close, file)
    try:
      _take(workdir, path, file, times)
      _write(file, record)
    except OSError as error:
      raise _cannot_be_written(workdir, error) from None
    ended = threading.Event()

    def beat():
      while not ended.wait(times.beat):
        record['count'] += 1
        # A full disk is for the checkpoints to tell.
        with contextlib.suppress(OSError):
          _write(file, record)

    thread = threading.Thread(target=beat, name='workdir_lock', daemon=True)
    thread.start()
    try:
      yield
    finally:
      ended.set()
      thread.join()
      with contextlib.suppress(OSError):
        os.ftruncate(file, 0)


def _take(
  workdir: pathlib.Path, path: pathlib.Path, file: int, times: _Times
) -> None:
  """Locks the file, and makes sure that whom it names has ended.

  Raises:
    ConfigError: it lives.
  """
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    locked = True
  except BlockingIOError:
    raise _in_use(workdir, path.read_bytes()) from None
  except OSError:
    # This file system has no locks.
    locked = False
  text = path.read_bytes()
  if not text:
    return
  # Of this machine's processes the kernel knows which have ended.
  if not (locked and _parse(text).get('machine') == _machine()):
    logging.info(
      'The lock of %s is of %s; waiting up to %.0f s whether it still runs',
      workdir,
      _holder(text),
      times.wait,
    )
    end = time.monotonic() + times.wait
    while time.monotonic() < end:
      time.sleep(times.look)
      now = path.read_bytes()
      if not now:
        return
      if now != text:
        raise _in_use(workdir, now)
  logging.info('Taking over the lock of %s, which has ended', _holder(text))


def _write(file: int, record: dict) -> None:
  """Writes the record in place: it is never empty, and stays locked."""
  data = json.dumps(record).encode() + b'\n'
  os.pwrite(file, data, 0)
  os.ftruncate(file, len(data))
  # What lies in a bucket is sent only now.
  os.fsync(file)


def _parse(text: bytes) -> dict:
  """A record; an empty one where it cannot be read."""
  try:
    record = json.loads(text)
  except ValueError:
    return {}
  return record if isinstance(record, dict) else {}


def _holder(text: bytes) -> str:
  record = _parse(text)
  try:
    return 'process {process} on {host} (since {since})'.format_map(record)
  except KeyError:
    return 'an unknown process'


def _in_use(workdir: pathlib.Path, text: bytes) -> ConfigError:
  return ConfigError(
    f'--workdir={workdir} is in use by {_holder(text)}; use another --workdir, '
    'or stop that run'
  )


def _cannot_be_written(workdir: pathlib.Path, error: OSError) -> ConfigError:
  return ConfigError(
    f'--workdir={workdir} cannot be written ({error.strerror}); name a '
    'directory of yours'
  )


def _machine() -> str:
  """Names the running kernel: other hosts may have the same host name."""
  try:
    return pathlib.Path('/proc/sys/kernel/random/boot_id').read_text().strip()
  except OSError:
    return socket.gethostname()
