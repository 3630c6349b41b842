"""How the experiments' commands start and end."""

import contextlib
import ctypes
import os
import pathlib
import signal
import sys
import warnings
from collections.abc import Callable, Sequence

import jax
import ml_collections
from absl import flags, logging
from ml_collections import config_flags

from data_pipelines import files
from data_pipelines.errors import ConfigError, DataError
from experiments.cli import command

# Shared: tests and notebooks import several commands at once.
_WORKDIR = flags.DEFINE_string('workdir', None, 'Directory of a training run.')
_CONFIG = config_flags.DEFINE_config_file('config', None, 'The experiment.')
STEP = flags.DEFINE_integer('step', None, 'Checkpoint; the newest if unset.')
_DISTRIBUTED = flags.DEFINE_bool(
  'distributed', False, 'One of several processes of one run, which find each '
  'other by themselves: on Cloud TPU slices, under Slurm and Open MPI.',
)  # fmt: skip
_COORDINATOR = flags.DEFINE_string(
  'coordinator', None, 'Elsewhere: HOST:PORT of process 0, with the two below.'
)
_NUM_PROCESSES = flags.DEFINE_integer('num_processes', None, 'Of the run.')
_PROCESS_ID = flags.DEFINE_integer('process_id', None, 'From 0.')
_CPU_DEVICES = flags.DEFINE_integer(
  'cpu_devices', None, 'Splits a CPU into so many devices that share the '
  'batch: as many as it has cores is faster for small models.', lower_bound=1,
)  # fmt: skip
_END_WITH_PARENT = flags.DEFINE_bool(
  'end_with_parent', False, 'Gets a SIGTERM when the process that started it '
  'ends (Linux): so notebooks leave nothing behind.',
)  # fmt: skip


def run(
  main: Callable[[Sequence[str]], int | None], positional: bool = False
) -> None:
  """Runs `main`, as `experiments.cli.command.run` does, in every process."""

  def joined(argv: Sequence[str]) -> int | None:
    if _END_WITH_PARENT.value:
      _end_with_parent()
    if _CPU_DEVICES.value is not None:
      jax.config.update('jax_num_cpu_devices', _CPU_DEVICES.value)
    _join()
    return main(argv)

  _keep_freed_memory()
  _keep_compiled()
  _ignore_late_answers()
  command.run(joined, (ConfigError, DataError), positional)


def _join() -> None:
  """Joins the processes that the flags tell of; the first one alone logs.

  Raises:
    ConfigError: the flags do not fit together, or the others are not found.
  """
  explicit = {
    'coordinator_address': _COORDINATOR.value,
    'num_processes': _NUM_PROCESSES.value,
    'process_id': _PROCESS_ID.value,
  }
  given = [value is not None for value in explicit.values()]
  if not any(given) and not _DISTRIBUTED.value:
    return
  if any(given) and not all(given):
    raise ConfigError(
      '--coordinator=HOST:PORT, --num_processes and --process_id go together; '
      '--distributed alone where the processes find each other'
    )
  if all(given):
    _, _, port = _COORDINATOR.value.rpartition(':')
    if not port.isdigit():
      raise ConfigError(
        f'--coordinator={_COORDINATOR.value} must be HOST:PORT of process 0'
      )
    if not 0 <= _PROCESS_ID.value < _NUM_PROCESSES.value:
      raise ConfigError(
        f'--process_id={_PROCESS_ID.value} must be from 0 to --num_processes '
        f'less one, {_NUM_PROCESSES.value - 1}'
      )
  try:
    jax.distributed.initialize(**explicit)
  except (ValueError, RuntimeError) as error:
    reason = str(error).strip().splitlines()[0]
    raise ConfigError(
      f'the processes of this run did not find each other ({reason}); '
      '--distributed is for Cloud TPU slices, Slurm and Open MPI; elsewhere '
      'give --coordinator, --num_processes and --process_id'
    ) from None
  if jax.process_index():
    logging.set_verbosity(logging.WARNING)


def config() -> ml_collections.ConfigDict:
  """The value of --config.

  Raises:
    ConfigError: it is missing.
  """
  if _CONFIG.value is None:
    raise ConfigError(
      '--config=FILE.py is missing, e.g. '
      '--config=experiments/configs/arc1.py:demo'
    )
  return _CONFIG.value


def workdir() -> pathlib.Path:
  """The value of --workdir.

  Raises:
    ConfigError: it is missing.
  """
  if _WORKDIR.value is None:
    raise ConfigError('--workdir=DIR is missing, e.g. --workdir=runs/demo')
  return pathlib.Path(_WORKDIR.value)


def _keep_compiled() -> None:
  """Keeps compiled programs on disk for the next process.

  In `xla` beside the generated puzzles, or where JAX_COMPILATION_CACHE_DIR
  says; a directory that cannot be written to is done without.
  """
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

  By default glibc maps each buffer anew and hands it back when freed, so that
  every step pays for its page faults (a fifth of the demo's step). Elsewhere
  than on glibc nothing happens.
  """
  with contextlib.suppress(OSError, AttributeError):
    mallopt = ctypes.CDLL('libc.so.6').mallopt
    # M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD of malloc.h.
    for parameter, value in ((-4, 0), (-1, 2**31 - 1), (-2, 64 * 2**20)):
      mallopt(parameter, value)


def _end_with_parent() -> None:
  """Asks the kernel for a SIGTERM at the end of the parent."""
  with contextlib.suppress(OSError, AttributeError):
    # PR_SET_PDEATHSIG of prctl.h.
    ctypes.CDLL('libc.so.6').prctl(1, signal.SIGTERM)


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
