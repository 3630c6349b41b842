"""How every command starts and ends: logging, and errors in one line."""

import contextlib
import ctypes
import logging as python_logging
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from absl import app, flags, logging

from data_pipelines.errors import DataError
from hrm_jax.errors import ConfigError

# Shared: tests and notebooks import several commands at once.
_WORKDIR = flags.DEFINE_string('workdir', None, 'Directory of a training run.')

_OUR_PACKAGES = tuple(
  pathlib.Path(__file__).parents[1] / name
  for name in ('hrm_jax', 'data_pipelines', 'experiments')
)


def run(
  main: Callable[[Sequence[str]], int | None], positional: bool = False
) -> None:
  """Runs `main` under absl; a user's mistake ends in one line.

  Args:
    main: takes the command line without its flags.
    positional: whether it takes more than flags.
  """

  _keep_freed_memory()

  def parse(argv: Sequence[str]) -> Sequence[str]:
    try:
      rest = flags.FLAGS(argv)
      # A config file that cannot be loaded says so when it is looked into.
      for name in flags.FLAGS:
        getattr(flags.FLAGS[name].value, 'keys', None)
    except Exception as error:  # Loading a config file may raise anything.
      _fail(_last_line(error))
    if len(rest) > 1 and not positional:
      _fail(f'unexpected arguments: {" ".join(rest[1:])}')
    return rest

  def guarded(argv: Sequence[str]) -> int | None:
    handler = logging.get_absl_handler()
    handler.setFormatter(python_logging.Formatter('%(message)s'))
    handler.addFilter(_is_ours)
    logging.set_verbosity(logging.INFO)
    try:
      return main(argv)
    except (ConfigError, DataError) as error:
      _fail(str(error))

  app.run(guarded, flags_parser=parse)


def _fail(message: str) -> NoReturn:
  print(f'error: {message}', file=sys.stderr)
  sys.exit(2)


def _last_line(error: Exception) -> str:
  """What is wrong; config flags put whole tracebacks before it."""
  text = str(error).replace(r'\n', '\n')
  lines = [line.strip() for line in text.splitlines()]
  lines = [line for line in lines if line and not line.startswith('Pass --')]
  return f'command line: {lines[-1] if lines else type(error).__name__}'


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


def _is_ours(record: python_logging.LogRecord) -> bool:
  """Libraries log into absl too: of theirs a user wants warnings alone."""
  path = pathlib.Path(record.pathname)
  return record.levelno >= python_logging.WARNING or any(
    path.is_relative_to(package) for package in _OUR_PACKAGES
  )
