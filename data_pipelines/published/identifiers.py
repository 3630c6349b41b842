"""identifiers.json: the name of each row of the puzzle table.

HRM and TRM write the names of augmented tasks in two forms; here they have
HRM's (see `encoding.augmentation_name`).
"""

import collections
import pathlib
from collections.abc import Sequence

from data_pipelines import files
from data_pipelines.arc import encoding
from data_pipelines.errors import DataError

SEPARATORS = {'hrm': '_', 'trm': '|||'}


def read(path: pathlib.Path, count: int | None, counted: str) -> list[str]:
  """The names, all of HRM's form; `count` where that is given.

  `counted` is the source of that number, for errors.

  Raises:
    DataError: it is not such a file.
  """
  where = files.shown(path)
  names = files.parse_json(files.read(path), path)
  if not isinstance(names, list) or not all(type(n) is str for n in names):
    raise DataError(f'{where}: must be a list of names')
  if count is not None and len(names) != count:
    raise DataError(
      f'{where}: has {len(names)} names, {counted} {count}; both must be of '
      'the same data'
    )
  for name in names:
    try:
      name.encode()
    except UnicodeEncodeError:
      raise DataError(f'{where}: name {name!r} is not proper Unicode') from None
  # Parsing all of a million names takes seconds.
  names = [
    _renamed(name, SEPARATORS['hrm']) if SEPARATORS['trm'] in name else name
    for name in names
  ]
  if len(set(names)) < len(names):
    ((twice, _),) = collections.Counter(names).most_common(1)
    raise DataError(
      f'{where}: name {twice!r} is there twice; each row needs one of its own'
    )
  return names


def write(path: pathlib.Path, names: Sequence[str], variant: str) -> None:
  """Writes the names in the form of 'hrm' or 'trm'."""
  separator = SEPARATORS[variant]
  files.write_json(path, [_renamed(name, separator) for name in names])


def _renamed(name: str, separator: str) -> str:
  task, transform, colours = encoding.parse_augmentation_name(name)
  return encoding.augmentation_name(task, transform, colours, separator)
