"""How the experiments' commands start and end."""

import contextlib
import ctypes
import pathlib
from collections.abc import Callable, Sequence

import ml_collections
from absl import flags
from ml_collections import config_flags

from data_pipelines import command
from data_pipelines.errors import DataError
from hrm_jax.errors import ConfigError

# Shared: tests and notebooks import several commands at once.
_WORKDIR = flags.DEFINE_string('workdir', None, 'Directory of a training run.')
_CONFIG = config_flags.DEFINE_config_file('config', None, 'The experiment.')
STEP = flags.DEFINE_integer('step', None, 'Checkpoint; the newest if unset.')


def run(
  main: Callable[[Sequence[str]], int | None], positional: bool = False
) -> None:
  """Runs `main`, as `data_pipelines.command.run` does."""
  _keep_freed_memory()
  command.run(main, (ConfigError, DataError), positional)


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
