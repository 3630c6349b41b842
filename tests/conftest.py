"""What all tests share: eight CPU devices, what is logged, a small disk."""

import atexit
import logging
import os
import shutil
import subprocess
import tempfile

import pytest

os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['XLA_FLAGS'] = (
  os.environ.get('XLA_FLAGS', '') + ' --xla_force_host_platform_device_count=8'
)
# Many tests, and the processes they start, run the very same programs.
_COMPILED = tempfile.mkdtemp(prefix='compiled_')
atexit.register(shutil.rmtree, _COMPILED, ignore_errors=True)
os.environ['JAX_COMPILATION_CACHE_DIR'] = _COMPILED
os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0.1'


@pytest.fixture
def caplog(caplog):
  """What is logged, at whatever level other tests left absl's logger."""
  caplog.set_level(logging.INFO, 'absl')
  return caplog


@pytest.fixture
def small_disk(tmp_path):
  """A disk of two megabytes, where this user may mount one."""
  disk = tmp_path / 'disk'
  disk.mkdir()
  mount = ['mount', '-t', 'tmpfs', '-o', 'size=2m', 'none', disk]
  if subprocess.run(mount, capture_output=True).returncode:
    pytest.skip('this user cannot mount a tmpfs')
  yield disk
  subprocess.run(['umount', '--lazy', disk], check=True)
