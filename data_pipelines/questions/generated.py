"""Puzzles that are generated from a SPEC, and kept for the next time."""

import dataclasses
import hashlib
import pathlib
import re
import zipfile
import zlib

import numpy as np
from absl import logging

from data_pipelines import files
from data_pipelines.errors import DataError
from data_pipelines.questions.domain import ROLES, Domain, Questions
from data_pipelines.questions.generator import Generated
from data_pipelines.questions.kinds import KINDS

# Raised when a generator makes other puzzles of the same settings.
_GENERATOR = 1


def load(name: str, spec: str, role: str) -> Questions:
  """The puzzles of a generator's spec, checked already when they were made.

  Raises:
    DataError: the spec cannot be used, or its puzzles cannot be found.
  """
  domain, settings, subset = parse(name, spec, role)
  count, tests = settings['count'], settings['tests']
  key, part = {
    'train': ('count', slice(0, count)),
    'test': ('tests', slice(count, None)),
  }[subset]
  if not settings[key]:
    raise DataError(
      f'{spec!r}: has no {subset} puzzles; set {key}= to 1 or more'
    )
  size = 'x'.join(str(x) for x in dataclasses.astuple(domain))
  named = {domain.size: size, **settings}
  text = ':'.join([name, *(f'{key}={value}' for key, value in named.items())])
  path = files.cache_folder() / f'{text.replace(":", "_")}_v{_GENERATOR}.npz'
  puzzles = _read_cache(path, domain, count + tests)
  if puzzles is None:
    puzzles = domain.generate(count + tests, settings)
    _write_cache(path, puzzles)
  digest = hashlib.sha256(puzzles.questions.tobytes()).hexdigest()[:12]
  return Questions(
    f'generated {text}:{subset} {digest}',
    domain,
    puzzles.questions[part],
    puzzles.answers[part],
    f'generated {text}',
    np.arange(1, count + tests + 1)[part],
  )


def parse(
  name: str, spec: str, role: str
) -> tuple[Domain, dict[str, int], str]:
  """The domain, settings and subset of a generator's spec."""
  kind = KINDS[name]
  first, *words = spec.split(':')
  subset = words.pop() if words and words[-1] in ROLES else role
  given = dict(word.partition('=')[::2] for word in words)
  size = given.pop(kind.size, kind.default_size)
  if not re.fullmatch(r'[0-9]{1,3}x[0-9]{1,3}', size):
    raise DataError(
      f'{spec!r}: {kind.size} is {size!r} and must be two numbers, as '
      f'{kind.default_size}'
    )
  domain = kind(*map(int, size.split('x')))
  settings = domain.defaults()
  names = [word.partition('=')[0] for word in words]
  for key in names:
    if key not in (kind.size, *settings) or names.count(key) > 1:
      what = 'is there twice' if names.count(key) > 1 else 'is not known'
      raise DataError(
        f'{spec!r}: {key!r} {what}; use '
        f'{name}[:{kind.size}={kind.default_size}]'
        f'{"".join(f"[:{k}={v}]" for k, v in settings.items())}[:train|:test]'
      )
  for key, value in given.items():
    if not re.fullmatch('[0-9]{1,9}', value):
      raise DataError(
        f'{spec!r}: {key} is {value!r} and must be a whole number'
      )
    settings[key] = int(value)
  if first != name:
    raise DataError(f'{spec!r}: {name} is generated and takes no directory')
  return domain, settings, subset


def _read_cache(
  path: pathlib.Path, domain: Domain, count: int
) -> Generated | None:
  """What an earlier run generated; None where there is none, or a damaged
  one."""
  try:
    # np.load leaves a damaged file open that it opened itself.
    with open(path, 'rb') as raw, np.load(raw, allow_pickle=False) as file:
      puzzles = Generated(*(file[name] for name in Generated._fields))
    found = [(array.shape, array.dtype) for array in puzzles]
    cells = (count, domain.seq_len), np.uint8
    if found[:2] != [cells, cells] or found[2][0] != (count,):
      raise ValueError('other arrays than were written')
    if faults := domain.check(puzzles.questions, puzzles.answers):
      raise ValueError(f'puzzle {faults[0][0] + 1}: {faults[0][1]}')
    return puzzles
  except (FileNotFoundError, NotADirectoryError):
    return None
  except (
    OSError, EOFError, ValueError, LookupError, NotImplementedError,
    zipfile.BadZipFile, zlib.error,
  ) as e:  # fmt: skip
    logging.warning('%s: damaged (%s); the puzzles are made anew', path, e)
    return None


def _write_cache(path: pathlib.Path, puzzles: Generated) -> None:
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.replacing(path) as part, open(part, 'wb') as file:
      np.savez_compressed(file, **puzzles._asdict())
  except OSError as e:
    logging.warning(
      '%s: cannot be written (%s); the puzzles will be made again next time',
      path,
      e.strerror,
    )
