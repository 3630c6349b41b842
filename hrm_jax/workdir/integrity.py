"""Digests of a checkpoint's files, so that damage is found before it is used.

The file SHA256SUMS of a checkpoint lists its other files in the form that
`sha256sum --check` reads.
"""

import concurrent.futures
import hashlib
import os
import pathlib

_SUMS = 'SHA256SUMS'
# What orbax writes at the very end; nothing is restored from these.
_UNLISTED = {_SUMS, '_CHECKPOINT_METADATA', 'commit_success.txt'}


def seal(directory: pathlib.Path) -> None:
  """Writes SHA256SUMS of all files, which are on the disk afterwards."""
  lines = [f'{_digest(directory / n, True)}  {n}\n' for n in _files(directory)]
  with (directory / _SUMS).open('w') as file:
    file.writelines(lines)
    file.flush()
    os.fsync(file.fileno())


def find_damage(directory: pathlib.Path) -> str | None:
  """Says what is wrong with the files; None where they are as written."""
  try:
    text = (directory / _SUMS).read_text()
    sums = dict(line.split('  ', 1)[::-1] for line in text.splitlines())
  except FileNotFoundError:
    return f'{_SUMS} is missing'
  except (OSError, ValueError):
    return f'{_SUMS} cannot be read'
  present = set(_files(directory))
  for name in sorted(sums.keys() | present):
    if name not in present:
      return f'{name} is missing'
    if name not in sums:
      return f'{name} is not listed in {_SUMS}'
  with concurrent.futures.ThreadPoolExecutor() as pool:
    digests = pool.map(lambda name: _digest(directory / name), sums)
    for name, digest in zip(sums, digests, strict=True):
      if digest != sums[name]:
        return f'{name} is not as it was written'
  return None


def fingerprint(directory: pathlib.Path) -> str:
  """Digest of SHA256SUMS, which tells one checkpoint from every other."""
  return hashlib.sha256((directory / _SUMS).read_bytes()).hexdigest()


def _files(directory: pathlib.Path) -> list[str]:
  """The names of the files that are to be listed."""
  names = (
    path.relative_to(directory).as_posix()
    for path in directory.rglob('*')
    # Hidden ones are a desktop's.
    if path.is_file() and not path.name.startswith('.')
  )
  return sorted(set(names) - _UNLISTED)


def _digest(path: pathlib.Path, sync: bool = False) -> str:
  """SHA-256 of a file; with `sync`, of one that is on the disk."""
  try:
    with path.open('rb') as file:
      if sync:
        os.fsync(file.fileno())
      return hashlib.file_digest(file, 'sha256').hexdigest()
  except OSError as error:
    if sync:
      raise
    return error.strerror
