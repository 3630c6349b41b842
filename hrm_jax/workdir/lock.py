"""One run in a workdir at a time.

`DIR/lock` is locked by the kernel, which frees it with the process however that
ends. Where such locks do not reach other machines (buckets, some network file
systems), its text tells who holds it, with a count that goes on while it lives.
Nothing is sure of two that start there within the same second, nor of a process
that was halted for longer than another machine waits.
"""

import contextlib
import datetime
import fcntl
import json
import os
import pathlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

from absl import logging

from data_pipelines import files
from data_pipelines.errors import ConfigError


@contextlib.contextmanager
def hold(
  workdir: pathlib.Path, beat: float = 10.0, patience: float = 75.0
) -> Iterator[None]:
  """Keeps other runs out of a workdir, which it makes where there is none.

  Args:
    workdir: directory of the run.
    beat: seconds between two counts.
    patience: seconds without a count after which a holder that the kernel does
      not know has ended. NFS and gcsfuse show files as they were up to 60 ago.

  Raises:
    ConfigError: another run holds it, or it cannot be written.
  """
  path = workdir / 'lock'
  with contextlib.ExitStack() as stack:
    with files.writing(f'--workdir={workdir}', 'name a directory of yours'):
      workdir.mkdir(parents=True, exist_ok=True)
      # Neither truncated, which is for its holder, nor left to child processes.
      file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
      stack.callback(os.close, file)
      now = datetime.datetime.now(datetime.UTC)
      record: dict[str, Any] = {
        'host': socket.gethostname(),
        'process': os.getpid(),
        'since': now.isoformat(' ', 'seconds'),
        'kernel': _kernel(file),
        'count': 0,
      }
      _take(path, file, record['kernel'], patience)
      _write(file, record)
    ended = threading.Event()

    def count():
      while not ended.wait(beat):
        record['count'] += 1
        # A full disk is for the checkpoints to tell.
        with contextlib.suppress(OSError):
          _write(file, record)

    thread = threading.Thread(target=count, name='workdir_lock', daemon=True)
    thread.start()
    try:
      yield
    finally:
      ended.set()
      thread.join()
      with contextlib.suppress(OSError):
        os.ftruncate(file, 0)


def _take(path: pathlib.Path, file: int, kernel: str, patience: float) -> None:
  """Locks the file, and makes sure that whom it names has ended."""
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    locked = True
  except BlockingIOError:
    raise _in_use(path) from None
  except OSError:
    # This file system has no locks.
    locked = False
  if not (text := path.read_bytes()):
    return
  # Of its own processes the kernel knows which have ended.
  if not (locked and _parse(text).get('kernel') == kernel):
    logging.info(
      'The lock of %s is of %s; waiting up to %.0f s whether it still runs',
      path.parent, _holder(text), patience,
    )  # fmt: skip
    end = time.monotonic() + patience
    while time.monotonic() < end:
      time.sleep(patience / 75)
      if not (now := path.read_bytes()):
        return
      if now != text:
        raise _in_use(path)
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
  with contextlib.suppress(ValueError):
    if isinstance(record := json.loads(text), dict):
      return record
  return {}


def _holder(text: bytes) -> str:
  record = _parse(text)
  try:
    return 'process {process} on {host} (since {since})'.format_map(record)
  except KeyError:
    return 'an unknown process'


def _in_use(path: pathlib.Path) -> ConfigError:
  return ConfigError(
    f'--workdir={path.parent} is in use by {_holder(path.read_bytes())}; use '
    'another --workdir, or stop that run'
  )


def _kernel(file: int) -> str:
  """Names the running kernel and the mount, which is as far as locks reach.

  Other hosts may have the same host name, and one host a bucket mounted twice.
  """
  try:
    boot = pathlib.Path('/proc/sys/kernel/random/boot_id').read_text().strip()
  except OSError:
    boot = socket.gethostname()
  return f'{boot} {os.fstat(file).st_dev}'
