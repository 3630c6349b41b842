"""One run in a workdir at a time.

`DIR/lock` is locked by the kernel, which frees it with the process however that
ends. Where such locks do not reach other machines (buckets, some network file
systems), its text tells who holds it, with a count that goes on while it lives.

In a bucket, gs://…, the text is written on the condition that it is still the
one that was read: of two that start at once one gets it, and a process that has
lost it, or cannot reach the bucket for nearly as long as another one waits,
knows so and ends. In a bucket that is mounted nothing is sure of two that start
within the same second, nor of a process that was halted for longer than that.
"""

import contextlib
import datetime
import fcntl
import hashlib
import json
import os
import pathlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from absl import logging

from data_pipelines import files
from data_pipelines.errors import Abandoned, ConfigError


@contextlib.contextmanager
def hold(
  workdir: pathlib.Path, beat: float = 10.0, patience: float = 75.0
) -> Iterator[Callable[[], None]]:
  """Keeps other runs out of a workdir, which it makes where there is none.

  Args:
    workdir: directory of the run.
    beat: seconds between two counts.
    patience: seconds without a count after which a holder that the kernel does
      not know has ended. NFS and gcsfuse show files as they were up to 60 ago.

  Yields:
    What raises Abandoned where the workdir is not held any more.

  Raises:
    ConfigError: another run holds it, or it cannot be written.
  """
  path = workdir / 'lock'
  with contextlib.ExitStack() as stack:
    with files.writing(f'--workdir={workdir}', 'name a directory of yours'):
      workdir.mkdir(parents=True, exist_ok=True)
      file = _File(path) if files.is_local(path) else _Object(path)
      stack.callback(file.close)
      now = datetime.datetime.now(datetime.UTC)
      record: dict[str, Any] = {
        'host': socket.gethostname(),
        'process': os.getpid(),
        'since': now.isoformat(' ', 'seconds'),
        'kernel': file.kernel,
        'count': 0,
      }
      _take(path, file, patience)
      last = time.monotonic()
      file.write(_text(record))
    ended, lost = threading.Event(), list[ConfigError]()

    def count():
      nonlocal last
      while not ended.wait(beat):
        record['count'] += 1
        begun = time.monotonic()
        try:
          file.write(_text(record))
          last = begun
        except ConfigError as error:
          lost.append(error)
          return
        # A full disk is for the checkpoints to tell.
        except files.errors():
          pass

    def check():
      silent = time.monotonic() - last
      if lost:
        raise Abandoned(str(lost[0]))
      # Before another one may think that this one has ended.
      if silent > patience - 2 * beat and not files.is_local(path):
        raise Abandoned(
          f'--workdir={workdir} cannot be reached for {silent:.0f} s; the same '
          'command continues from the newest checkpoint'
        )

    thread = threading.Thread(target=count, name='workdir_lock', daemon=True)
    thread.start()
    try:
      yield check
    finally:
      ended.set()
      thread.join()
      with contextlib.suppress(*files.errors(ConfigError)):
        file.write(b'')


class _File:
  """The lock of a directory; not left to child processes."""

  def __init__(self, path: pathlib.Path):
    self._path = path
    # Not truncated, which is for its holder.
    self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    self.kernel = _kernel(self._file)

  def lock(self) -> bool:
    """Whether this is locked now; a BlockingIOError where another has it."""
    try:
      fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      raise
    except OSError:
      # This file system has no locks.
      return False
    return True

  def read(self) -> bytes:
    return self._path.read_bytes()

  def write(self, data: bytes) -> None:
    """Writes in place: a record is never empty, and the file stays locked."""
    os.pwrite(self._file, data, 0)
    os.ftruncate(self._file, len(data))
    # What lies in a mounted bucket is sent only now.
    os.fsync(self._file)

  def close(self) -> None:
    os.close(self._file)


class _Object:
  """The lock of a workdir in a bucket.

  Beside it a file here is locked, by which a run of this machine that was
  killed is known to have ended.
  """

  def __init__(self, path: pathlib.Path):
    from data_pipelines import buckets

    self._path, self._blob = path, buckets.blob(path)
    self._generation, self._written = 0, b''
    self._changed = buckets.exceptions.PreconditionFailed
    self._here: _File | None = None
    self.kernel = ''
    name = hashlib.sha256(str(path).encode()).hexdigest()
    folder = files.cache_folder() / 'locks'
    # It may be no place to write to.
    with contextlib.suppress(OSError):
      folder.mkdir(parents=True, exist_ok=True)
      self._here = _File(folder / name)
      # Others may have a folder of their own there.
      inode = (folder / name).stat().st_ino
      self.kernel = f'{self._here.kernel} {inode}'

  def lock(self) -> bool:
    return self._here is not None and self._here.lock()

  def read(self) -> bytes:
    found = self._blob.bucket.get_blob(self._blob.name)
    self._generation = found.generation if found else 0
    return found.download_as_bytes() if found else b''

  def write(self, data: bytes) -> None:
    """Writes it, unless another has; then a ConfigError."""
    try:
      self._send(data)
    except self._changed:
      before, text = self._generation, self.read()
      if _identity(text) != _identity(data or self._written):
        # What is another's is never written.
        self._generation = before
        raise _in_use(self._path, text) from None
      # It is what was sent before, of which no answer came.
      self._send(data)

  def _send(self, data: bytes) -> None:
    self._blob.upload_from_string(
      data, if_generation_match=self._generation, timeout=10, retry=None
    )
    self._generation, self._written = self._blob.generation, data

  def close(self) -> None:
    if self._here:
      self._here.close()


def _take(path: pathlib.Path, file: _File | _Object, patience: float) -> None:
  """Locks the file, and makes sure that whom it names has ended."""
  try:
    locked = file.lock()
  except BlockingIOError:
    raise _in_use(path, file.read()) from None
  if not (text := file.read()):
    return
  # Of its own processes the kernel knows which have ended.
  if not (locked and _parse(text).get('kernel') == file.kernel):
    logging.info(
      'The lock of %s is of %s; waiting up to %.0f s whether it still runs',
      path.parent, _holder(text), patience,
    )  # fmt: skip
    end = time.monotonic() + patience
    while time.monotonic() < end:
      time.sleep(patience / 75)
      if not (now := file.read()):
        return
      if now != text:
        raise _in_use(path, now)
  logging.info('Taking over the lock of %s, which has ended', _holder(text))


def _text(record: dict[str, Any]) -> bytes:
  return json.dumps(record).encode() + b'\n'


def _identity(text: bytes) -> dict[str, Any]:
  return _parse(text) | {'count': 0}


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


def _in_use(path: pathlib.Path, text: bytes) -> ConfigError:
  return ConfigError(
    f'{path.parent} is in use by {_holder(text)}; name another directory, or '
    'stop that run'
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
