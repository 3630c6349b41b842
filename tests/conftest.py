"""What all tests share: eight CPU devices, what is logged, disks."""

import atexit
import contextlib
import importlib.metadata
import logging
import os
import shutil
import signal
import tempfile
import uuid

import pytest

from data_pipelines import files
from tests import buckets, devices, disks

os.environ['JAX_PLATFORMS'] = 'cpu'
# Tests compile much and compute little, and pytest-xdist has every core busy:
# optimisations and threads of the compiler would cost more than they give. What
# is computed is the same but for rounding.
_XLA_FLAGS = [
  devices.xla_flags(8),
  '--xla_backend_optimization_level=0',
  '--xla_cpu_parallel_codegen_split_count=1',
]
# The older code generator is the quicker one; later versions lack it, and XLA
# aborts at a flag that it does not know.
if importlib.metadata.version('jaxlib').startswith('0.10.'):
  _XLA_FLAGS.append('--xla_cpu_use_fusion_emitters=false')
os.environ['XLA_FLAGS'] = ' '.join(_XLA_FLAGS)
# Many tests, and the processes they start, run the very same programs: one
# folder for all of them, which pytest-xdist's workers have from their parent.
# Who sets it keeps what is compiled for the next run of the tests.
if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
  _COMPILED = tempfile.mkdtemp(prefix='compiled_')
  atexit.register(shutil.rmtree, _COMPILED, ignore_errors=True)
  os.environ['JAX_COMPILATION_CACHE_DIR'] = _COMPILED
os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0.1'
# Fixtures of several rooms; imported here, where the environment is set.
pytest_plugins = ['tests.run_fixtures', 'tests.browsers']
# A shell's background job ignores Ctrl-C, and so would all that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def caplog(caplog):
  """What is logged, at whatever level other tests left absl's logger."""
  caplog.set_level(logging.INFO, 'absl')
  return caplog


@pytest.fixture
def mount(tmp_path):
  """Mounts a disk by these options, where this user may."""
  with contextlib.ExitStack() as stack:

    def mounted(options):
      disk = tmp_path / 'disk'
      if not stack.enter_context(disks.tmpfs(disk, options)):
        pytest.skip('this user cannot mount a tmpfs')
      return disk

    yield mounted


@pytest.fixture(scope='session')
def bucket_server(tmp_path_factory):
  """A server of buckets; what this process makes there is found once."""
  with buckets.serving(tmp_path_factory.mktemp('buckets')) as server:
    yield server


@pytest.fixture
def in_bucket(bucket_server, request):
  """A place in a bucket that no other test has."""
  name = f'{uuid.uuid4().hex[:8]} {request.node.name[:40]}'
  return files.place(f'gs://{buckets.BUCKET}/{name}')
