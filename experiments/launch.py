"""How every command starts and ends: logging, and errors in one line."""

import logging as python_logging
import pathlib
import sys
from collections.abc import Callable, Sequence

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
  """Runs `main` under absl; a user's mistake ends in one line and code 2.

  Args:
    main: takes the command line without its flags.
    positional: whether it takes more than flags.
  """

  def guarded(argv: Sequence[str]) -> int | None:
    handler = logging.get_absl_handler()
    handler.setFormatter(python_logging.Formatter('%(message)s'))
    handler.addFilter(_is_ours)
    logging.set_verbosity(logging.INFO)
    if len(argv) > 1 and not positional:
      raise app.UsageError(f'unexpected arguments: {" ".join(argv[1:])}')
    try:
      return main(argv)
    except (ConfigError, DataError) as error:
      print(f'error: {error}', file=sys.stderr)
      return 2

  app.run(guarded)


def workdir() -> pathlib.Path:
  """The value of --workdir.

  Raises:
    ConfigError: it is missing.
  """
  if _WORKDIR.value is None:
    raise ConfigError('--workdir=DIR is missing, e.g. --workdir=runs/demo')
  return pathlib.Path(_WORKDIR.value)


def _is_ours(record: python_logging.LogRecord) -> bool:
  """Libraries log into absl too: of theirs a user wants warnings alone."""
  path = pathlib.Path(record.pathname)
  return record.levelno >= python_logging.WARNING or any(
    path.is_relative_to(package) for package in _OUR_PACKAGES
  )
