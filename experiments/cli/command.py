"""How every command starts and ends: its flags, help, log and errors."""

import contextlib
import difflib
import errno
import faulthandler
import logging as python_logging
import os
import pathlib
import re
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import NoReturn

from absl import flags, logging

from data_pipelines import files
from data_pipelines.errors import Abandoned, ConfigError, DataError, Gone
from experiments.cli import interrupts

_OUR_PACKAGES = tuple(
  pathlib.Path(__file__).parents[2] / name
  for name in ('hrm_jax', 'data_pipelines', 'experiments')
)
_INDENTED = {'initial_indent': ' ' * 6, 'subsequent_indent': ' ' * 6}
# What libraries say of a value that a flag cannot have, and what we do.
_NOT_OF_A_TYPE = {
  'Non-boolean argument': 'must be true or false',
  'invalid literal for int': 'must be a whole number',
  'could not convert string to float': 'must be a number',
}
# What is wrong with a place, whatever is read or written there.
_PLACE = (
  errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS,
  errno.EIO, errno.ESTALE, errno.ENAMETOOLONG,
)  # fmt: skip


def run(
  main: Callable[[Sequence[str]], int | None],
  own: flags.FlagValues,
  start: Callable[[flags.FlagValues], None] | None = None,
  positional: bool = False,
) -> NoReturn:
  """Runs a command and ends the process; a user's mistake ends in one line.

  `start` is called with the parsed flags, then `main` with the arguments that
  are no flags, if the command is one that takes them; it returns the exit code.
  """
  module = main.__globals__
  name = typed(module['__spec__'].name if module['__spec__'] else '-c')
  if {'--help', '-h'} & {*sys.argv}:
    print(help_text(own, name, module['__doc__'] or ''))
    sys.exit()
  flags.FLAGS.mark_as_parsed()  # absl's log has flags of its own.
  logging.use_absl_handler()
  handler = logging.get_absl_handler()
  handler.setFormatter(_Formatter('%(message)s'))
  handler.addFilter(_is_ours)
  logging.set_verbosity(logging.INFO)
  with contextlib.suppress(Exception):  # Standard error may be closed.
    faulthandler.enable()
  signal.signal(signal.SIGTERM, _terminated)
  if callable(signal.getsignal(signal.SIGINT)):
    signal.signal(signal.SIGINT, signal.default_int_handler)
  try:
    rest = parse(own, name)
    if rest and not positional:
      raise ConfigError(f'unexpected arguments: {" ".join(rest)}')
    if start:
      start(own)
    sys.exit(_with_newest(main, rest, own))
  except Abandoned as error:
    print(f'error: {error}', file=sys.stderr, flush=True)
    os._exit(2)  # JAX would wait for the others.
  except (ConfigError, DataError) as error:
    fail(str(error))
  except KeyboardInterrupt:
    print('interrupted', file=sys.stderr)
    sys.exit(interrupts.EXIT_CODE)
  except files.errors() as error:
    number = getattr(error, 'errno', None)
    # Of a bucket they have none.
    if number not in _PLACE and (number or len(files.errors()) == 1):
      raise
    where = getattr(error, 'filename', None) or 'a file'
    fail(
      f'{where}: cannot be used ({files.reason(error)}); mend that, or free '
      'some space, and start the same command again'
    )


def _with_newest(main, rest: Sequence[str], own: flags.FlagValues):
  """Calls `main`, again where a running training clears its checkpoint away."""
  for _ in range(10):
    try:
      return main(rest)
    except Gone as error:
      # Only where the newest one is meant.
      if 'runs' not in own and ('step' not in own or own.step is not None):
        raise
      logging.info('%s; again with the newest one', str(error).split(';')[0])
  return main(rest)


def parse(own: flags.FlagValues, name: str) -> Sequence[str]:
  """Parses the command line; returns what is no flag."""
  own.set_gnu_getopt()
  # --config first: the settings are flags that it defines.
  sys.argv[1:] = sorted(
    sys.argv[1:], key=lambda word: not word.startswith('--config=')
  )
  try:
    return own(sys.argv)[1:]
  except flags.UnrecognizedFlagError as error:
    flag = error.flagname
    if 'config' in own and flag.startswith('config.'):
      message = f'--{flag} needs an experiment, e.g. --config=arc1:demo'
    else:
      close = difflib.get_close_matches(flag, [*own], 1)
      message = f'{name} has no flag --{flag}; ' + (
        f'did you mean --{close[0]}?' if close else '--help lists its flags'
      )
  except Exception as error:  # Loading a config file may raise anything.
    # absl says 'flag --NAME=VALUE: WHY', also where there is no value.
    text = ' '.join(str(error).split()).removeprefix('flag ')
    message = re.sub(r'^--\w+=\S*: (--\w+ is missing)', r'\1', text)
    for theirs, ours in _NOT_OF_A_TYPE.items():
      message = re.sub(rf'(?<=: )\(?["\']?{theirs}.*', ours, message)
  raise ConfigError(message)


def _terminated(number: int, _) -> NoReturn:
  """Ends the process on SIGTERM; training has its own way."""
  print('terminated', file=sys.stderr)
  sys.exit(128 + number)


def typed(module: str) -> str:
  """The words by which this user starts a command, given its module.

  They are `hrm-jax train` where this process was started like that, otherwise
  `python -m experiments.train`.
  """
  if pathlib.Path((*sys.orig_argv, '', '')[1]).stem == 'hrm-jax':
    return module.replace('experiments.', 'hrm-jax ', 1)
  return f'python -m {module}'


def help_text(own: flags.FlagValues, name: str, docstring: str) -> str:
  """What --help prints: the docstring of a command's module, and its flags."""
  prefix = 'hrm-jax ' if name.startswith('hrm-jax ') else typed('experiments.')
  lines = [re.sub(r'\bhrm-jax (?=[a-z])', prefix, docstring.strip())]
  lines += ['', f'Flags of {name}:']
  for flag in map(own.__getitem__, own):
    head = f'--[no]{flag.name}' if flag.boolean else f'--{flag.name}'
    if isinstance(flag, flags.EnumFlag):
      head += f'={"|".join(flag.parser.enum_values)}'
    text = sentences(flag)
    if flag.default not in (None, '', []):
      text += f' (default: {flag.default_as_str.strip(chr(39))})'
    lines += [f'  {head}', textwrap.fill(text, 80, **_INDENTED)]
  return '\n'.join(lines)


def sentences(flag: flags.Flag) -> str:
  """The help of a flag without what absl adds to it."""
  return re.sub(r'^<.*?>: |;\n.*', '', flag.help, flags=re.DOTALL)


def commit() -> str | None:
  """The commit of this checkout; None where it is none."""
  here = pathlib.Path(__file__).parent
  try:
    return subprocess.run(
      ['git', '-C', here, 'describe', '--always', '--dirty', '--abbrev=12'],
      capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
  except (OSError, subprocess.CalledProcessError):
    return None


def cores() -> int:
  """How many cores this process may use."""
  if hasattr(os, 'sched_getaffinity'):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


@contextlib.contextmanager
def writing(path: pathlib.Path) -> Iterator[pathlib.Path]:
  """Makes the directory of `path`; a failure to write is one line of error."""
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    yield path
  except files.errors() as error:
    raise ConfigError(
      f'{path}: cannot be written ({files.reason(error)}); name a place of '
      'yours'
    ) from None


def fail(message: str) -> NoReturn:
  """Ends the process after a mistake of its user."""
  text = plain(message).replace('\n', r'\n')
  print(f'error: {text}', file=sys.stderr)
  sys.exit(2)


def coloured(wanted: bool | None) -> bool:
  """Whether text has colours: as --color says, else on a terminal."""
  return sys.stdout.isatty() if wanted is None else wanted


def plain(text: str) -> str:
  """A text without what a terminal acts on, such as names may hold."""
  return re.sub(
    r'[^ -~\n]',
    lambda m: m[0] if m[0].isprintable() else repr(m[0])[1:-1],
    text,
  )


def say(text: str) -> None:
  """Prints a text that may hold names of the user's files."""
  print(plain(text))


class _Formatter(python_logging.Formatter):
  def format(self, record: python_logging.LogRecord) -> str:
    return plain(super().format(record))


def _is_ours(record: python_logging.LogRecord) -> bool:
  """Libraries log into absl too: of theirs a user wants warnings alone."""
  path = pathlib.Path(record.pathname)
  return record.levelno >= python_logging.WARNING or any(
    path.is_relative_to(package) for package in _OUR_PACKAGES
  )
