"""Eight simulated CPU devices for every test, and a small disk."""

import os
import subprocess

import pytest

os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['XLA_FLAGS'] = (
  os.environ.get('XLA_FLAGS', '') + ' --xla_force_host_platform_device_count=8'
)


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
