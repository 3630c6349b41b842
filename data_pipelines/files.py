"""Files: read with errors in one line, written whole or not at all."""

import contextlib
import errno
import json
import os
import pathlib
import re
import stat
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

from data_pipelines.errors import ConfigError, DataError, first_line

# How an address begins, such as gs://bucket/run.
_ADDRESS = r'[a-z][a-z0-9+.-]+:/'


def cache_folder() -> pathlib.Path:
  """Where what can be made again is kept: HRM_JAX_CACHE or ~/.cache/hrm_jax."""
  if folder := os.environ.get('HRM_JAX_CACHE'):
    return local(folder)
  folder = os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')
  return pathlib.Path(folder) / 'hrm_jax'


def local(path: str | os.PathLike) -> pathlib.Path:
  """A path as a user gives it, `~` being the home directory.

  Raises:
    ConfigError: it is empty, or an address such as gs://bucket/run.
  """
  text = os.fspath(path)
  if not text or re.match(_ADDRESS, text):
    raise ConfigError(
      f'{text!r} is no path of this machine; name a file or directory here'
    )
  return pathlib.Path(os.path.expanduser(text))


def place(path: str | os.PathLike) -> pathlib.Path:
  """Where a run is, as a user gives it: a path as `local` has it, or gs://….

  What is in a bucket has the interface of a path too; `is_local` tells.

  Raises:
    ConfigError: it is empty, or its bucket cannot be used.
  """
  text = os.fspath(path)
  if is_local(text):
    return local(text)
  try:
    from data_pipelines import buckets
  except ImportError as error:
    raise ConfigError(
      f'{text}: buckets need packages that are not installed '
      f"({first_line(error)}); `pip install -e '.[gcs]'`"
    ) from None
  found: Any = buckets.address(text)
  return found


def is_local(path: str | os.PathLike) -> bool:
  """Whether a place is on this machine, not in a bucket."""
  return not os.fspath(path).startswith('gs://')


def names(directory: pathlib.Path) -> list[str]:
  """The names of all files below a directory, relative to it."""
  if not is_local(directory):
    from data_pipelines import buckets

    return buckets.names(directory)
  return [
    path.relative_to(directory).as_posix()
    for path in directory.rglob('*')
    if path.is_file()
  ]


def move(directory: pathlib.Path, target: pathlib.Path) -> None:
  """Moves a directory to another name."""
  if is_local(directory):
    directory.rename(target)
  else:
    from data_pipelines import buckets

    buckets.move(directory, target)


def errors(*others: type[Exception]) -> tuple[type[Exception], ...]:
  """What reading and writing raises, in a bucket too where one is used."""
  buckets = sys.modules.get('data_pipelines.buckets')
  return (*others, *(buckets.ERRORS if buckets else (OSError,)))


def reason(error: Exception) -> str:
  """Why something cannot be read or written."""
  return getattr(error, 'strerror', None) or first_line(error)


def sources(spec: str) -> list[str]:
  """The sources that a SPEC names, separated by commas.

  `~` is the home directory, and a comma in the path of a file or directory that
  is there does not separate.

  Raises:
    ConfigError: a source is an address such as gs://bucket/data.
  """
  parts, found = spec.split(','), []
  while parts:
    count = len(parts)
    while count > 1 and not _names_path(','.join(parts[:count])):
      count -= 1
    source = ','.join(parts[:count]).strip()
    # NAME@PATH, or a path.
    _, name, path = re.split(r'^([\w/-]+@)?', source, maxsplit=1)
    if path.startswith('~') or re.match(_ADDRESS, path):
      path = os.fspath(local(path))
    found.append(f'{name or ""}{path}')
    del parts[:count]
  return found


def _names_path(source: str) -> bool:
  source = source.strip()
  return any(
    os.path.exists(os.path.expanduser(path))
    for path in (
      source,
      re.sub(r':\w*$', '', source),
      re.sub(r'^[\w/-]+@', '', source),
    )
    if ',' in path
  )


@contextlib.contextmanager
def writing(what: Any, fix: str) -> Iterator[None]:
  """Raises a ConfigError where `what` cannot be written, and names the fix."""
  try:
    yield
  except errors() as error:
    raise ConfigError(
      f'{what} cannot be written ({reason(error)}); {fix}'
    ) from None


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[pathlib.Path]:
  """A path to write to, which takes the place of `path` when all went well."""
  if not is_local(path):
    # An object is replaced whole.
    with tempfile.TemporaryDirectory() as folder:
      yield (part := pathlib.Path(folder, 'part'))
      place(path).write_bytes(part.read_bytes())
    return
  path = pathlib.Path(path)
  if not path.name:
    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
  part = path.with_name(f'{path.name}.{os.getpid()}.part')
  try:
    yield part
    with part.open('rb+') as file:
      os.fsync(file.fileno())
    part.replace(path)
  finally:
    part.unlink(missing_ok=True)


def write_text(path: str | os.PathLike, text: str) -> None:
  """Writes a text file, whole or not at all."""
  with replacing(path) as part:
    part.write_text(text)


def write_json(path: str | os.PathLike, value: Any) -> None:
  """Writes a JSON file, whole or not at all."""
  write_text(path, json.dumps(value))


@contextlib.contextmanager
def reading(path: str | os.PathLike) -> Iterator[None]:
  """A DataError in place of an OSError, and of waiting for a pipe's other end.

  Raises:
    DataError: it cannot be read.
  """
  try:
    if is_local(path):
      mode = os.stat(path).st_mode
      if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise DataError(
          f'{shown(path)}: cannot be read; make it a regular file'
        )
    yield
  except errors() as e:
    raise DataError(f'{shown(path)}: cannot be read ({reason(e)})') from e


def read(path: pathlib.Path, at_most: int = 2**30) -> bytes:
  """The bytes of a file; a DataError where it cannot be read, or is larger."""
  with reading(path):
    if is_local(path) and (size := path.stat().st_size) > at_most:
      raise DataError(
        f'{shown(path)}: has {size:,} bytes, at most {at_most:,} are read; '
        'name a smaller file'
      )
    return path.read_bytes()


def decoded(data: bytes, path: pathlib.Path) -> str:
  """The text of a file in UTF-8, be there a byte order mark or none.

  Raises:
    DataError: it is not UTF-8.
  """
  try:
    return data.decode('utf-8-sig')
  except UnicodeDecodeError as e:
    raise DataError(
      f'{shown(path)}: not UTF-8 text (byte {e.start}); save it as UTF-8'
    ) from e


def parse_json(data: bytes, path: pathlib.Path) -> Any:
  """The value of a JSON file's bytes, each key of an object being there once.

  Raises:
    DataError: it is not JSON.
  """
  where, text = shown(path), decoded(data, path)
  try:
    return json.loads(
      text, object_pairs_hook=_object, parse_constant=_no_constant
    )
  except json.JSONDecodeError as e:
    fault = f'not JSON (line {e.lineno}, column {e.colno}: {e.msg})'
  except RecursionError:
    fault = (
      'cannot be used (nested beyond the recursion limit); write it with fewer '
      'levels'
    )
  except ValueError as e:
    fault = f'cannot be used ({e})'
  raise DataError(f'{where}: {fault}')


def _object(pairs: list[tuple[str, Any]]) -> dict:
  """A JSON object; by itself Python keeps the last of two equal keys."""
  result = {}
  for key, value in pairs:
    if key in result:
      raise ValueError(f'key {key!r} is there twice; keep one')
    result[key] = value
  return result


def _no_constant(name: str) -> None:
  """Python reads these three; JSON has no such numbers."""
  raise ValueError(f'{name} is not JSON; write a number')


def shown(path: str | os.PathLike) -> str:
  """A path for one line of text, quoted where it has odd characters."""
  text = str(path)
  return text if text.isprintable() else repr(text)
