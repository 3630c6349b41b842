"""How every command starts and ends: logging, and errors in one line."""

import logging as python_logging
import sys
import warnings
from collections.abc import Callable, Sequence

from absl import app, logging

from data_pipelines.errors import DataError
from hrm_jax.errors import ConfigError


def run(main: Callable[[Sequence[str]], int | None]) -> None:
  """Runs `main` under absl; a user's mistake ends in one line and code 2."""
  quiet_libraries()

  def guarded(argv: Sequence[str]) -> int | None:
    logging.get_absl_handler().setFormatter(
      python_logging.Formatter('%(message)s')
    )
    logging.set_verbosity(logging.INFO)
    if len(argv) > 1:
      raise app.UsageError(f'unexpected arguments: {" ".join(argv[1:])}')
    try:
      return main(argv)
    except (ConfigError, DataError) as error:
      print(f'error: {error}', file=sys.stderr)
      return 2

  app.run(guarded)


def quiet_libraries() -> None:
  """Silences what libraries say that a user can do nothing about."""
  for name in ('orbax', 'jax', 'tensorflow', 'clu'):
    python_logging.getLogger(name).setLevel(python_logging.ERROR)
  warnings.filterwarnings('ignore', module=r'(orbax|tensorflow|flax)\b.*')
