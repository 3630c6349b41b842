"""Disks that are full soon, or that even root cannot write to."""

import contextlib
import pathlib
import subprocess
from collections.abc import Iterator


@contextlib.contextmanager
def tmpfs(path: pathlib.Path, options: str) -> Iterator[bool]:
  """Mounts one at a directory that is made for it; whether this user may."""
  path.mkdir()
  mount = ['mount', '-t', 'tmpfs', '-o', options, 'none', path]
  try:
    mounted = not subprocess.run(mount, capture_output=True).returncode
  except OSError:
    mounted = False
  try:
    yield mounted
  finally:
    if mounted:
      subprocess.run(['umount', '--lazy', path], check=True)
