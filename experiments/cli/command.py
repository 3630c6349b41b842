"""How every command starts and ends: logging, and errors in one line."""

import errno
import logging as python_logging
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from absl import app, flags, logging

from data_pipelines.errors import DataError

_OUR_PACKAGES = tuple(
  pathlib.Path(__file__).parents[2] / name
  for name in ('hrm_jax', 'data_pipelines', 'experiments')
)

# Whatever is being written then, there is one thing to do.
_FULL = (errno.ENOSPC, errno.EDQUOT)


def run(
  main: Callable[[Sequence[str]], int | None],
  errors: tuple[type[Exception], ...] = (DataError,),
  positional: bool = False,
) -> None:
  """Runs `main` under absl; a user's mistake ends in one line.

  Args:
    main: takes the command line without its flags.
    errors: what a user's mistake raises.
    positional: whether it takes more than flags.
  """

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
    except errors as error:
      _fail(str(error))
    except OSError as error:
      if error.errno not in _FULL:
        raise
      _fail(
        f'{error.filename or "a file"}: cannot be written ({error.strerror}); '
        'free some space and start the same command again'
      )

  app.run(guarded, flags_parser=parse)


def _fail(message: str) -> NoReturn:
  print(f'error: {message}', file=sys.stderr)
  sys.exit(2)


def _last_line(error: Exception) -> str:
  """What is wrong; config flags put whole tracebacks before it."""
  name = str(error).strip('"\'')
  if isinstance(error, AttributeError) and name.isidentifier():
    # Where nothing is alike, they give the name alone.
    return f"command line: the config has no setting '{name}'"
  text = str(error).replace(r'\n', '\n')
  lines = [line.strip() for line in text.splitlines()]
  lines = [line for line in lines if line and not line.startswith('Pass --')]
  return f'command line: {lines[-1] if lines else type(error).__name__}'


def _is_ours(record: python_logging.LogRecord) -> bool:
  """Libraries log into absl too: of theirs a user wants warnings alone."""
  path = pathlib.Path(record.pathname)
  return record.levelno >= python_logging.WARNING or any(
    path.is_relative_to(package) for package in _OUR_PACKAGES
  )
