"""How commands that compute start JAX, in one process or several."""

import contextlib
import ctypes
import os
import pathlib
import sys
import time
import warnings

import jax
from absl import flags, logging

from data_pipelines import files
from data_pipelines.errors import ConfigError, first_line

# After so long without a sign of life, JAX takes a process for dead.
_HEARTBEAT_SECONDS = 30
_IMPORTED = time.monotonic()


def start(own: flags.FlagValues) -> None:
  """Sets JAX up as the parsed flags say; every process of a run calls it."""
  _keep_freed_memory()
  _keep_compiled()
  _ignore_late_answers()
  if own.cpu_devices is not None:
    jax.config.update('jax_num_cpu_devices', own.cpu_devices)
  if 'distributed' in own:
    _join(own)


def age() -> float:
  """Seconds since this process was started, its imports included.

  Where the system does not tell, since this module was imported.
  """
  since_import = time.monotonic() - _IMPORTED
  with contextlib.suppress(OSError, AttributeError, IndexError, ValueError):
    fields = pathlib.Path('/proc/self/stat').read_text().rpartition(')')[2]
    started = int(fields.split()[19]) / os.sysconf('SC_CLK_TCK')
    told = time.clock_gettime(time.CLOCK_BOOTTIME) - started
    # Some sandboxes tell the age of the machine.
    if since_import <= told <= since_import + 600:
      return told
  return since_import


def _join(own: flags.FlagValues) -> None:
  """Joins the processes that the flags tell of; the first one alone logs."""
  explicit = own.coordinator, own.num_processes, own.process_id
  given = [value is not None for value in explicit]
  if not any(given) and not own.distributed:
    return
  if any(given) and not all(given):
    raise ConfigError(
      '--coordinator=HOST:PORT, --num_processes and --process_id go together; '
      '--distributed alone where the processes find each other'
    )
  if all(given):
    _, _, port = own.coordinator.rpartition(':')
    if not port.isdigit():
      raise ConfigError(
        f'--coordinator={own.coordinator} must be HOST:PORT of process 0'
      )
    if not 0 <= own.process_id < own.num_processes:
      raise ConfigError(
        f'--process_id={own.process_id} must be from 0 to --num_processes '
        f'less one, {own.num_processes - 1}'
      )
  try:
    jax.distributed.initialize(
      *explicit, heartbeat_timeout_seconds=_HEARTBEAT_SECONDS
    )
  except (ValueError, RuntimeError) as error:
    raise ConfigError(
      'the processes of this run did not find each other '
      f'({first_line(error)}); --distributed is for Cloud TPU slices, Slurm '
      'and Open MPI; elsewhere give --coordinator, --num_processes and '
      '--process_id'
    ) from None
  if jax.process_index():
    logging.set_verbosity(logging.WARNING)


def _keep_compiled() -> None:
  """Keeps compiled programs on disk for the next process, where that can be."""
  # A full disk, a damaged file: it is compiled again.
  warnings.filterwarnings('ignore', '.*persistent compilation cache')
  if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
    folder = files.cache_folder() / 'xla'
    try:
      folder.mkdir(parents=True, exist_ok=True)
    except OSError:
      return
    if not os.access(folder, os.W_OK | os.X_OK):
      return
    jax.config.update('jax_compilation_cache_dir', str(folder))
  if 'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS' not in os.environ:
    # Initialisation is many small programs.
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.1)


def _keep_freed_memory() -> None:
  """Lets the C library keep the large buffers that a step on the CPU frees.

  glibc maps each anew: page faults are a fifth of the demo's step. Other C
  libraries have no such setting.
  """
  with contextlib.suppress(OSError, AttributeError):
    mallopt = ctypes.CDLL('libc.so.6').mallopt
    # M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD of malloc.h.
    for parameter, value in ((-4, 0), (-1, 2**31 - 1), (-2, 64 * 2**20)):
      mallopt(parameter, value)


def _ignore_late_answers() -> None:
  """Drops what tensorstore's threads still say when saving has failed.

  On a full disk the first array's error ends orbax's event loop, and each other
  array's answer to it would be a traceback before the line that tells.
  """
  before = sys.unraisablehook

  def hook(found):
    if str(found.exc_value) != 'Event loop is closed':
      before(found)

  sys.unraisablehook = hook
