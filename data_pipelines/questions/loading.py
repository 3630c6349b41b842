"""Puzzles with one answer from a SPEC: files, text, the hub or a generator.

`load_questions` is the only way in. Each row is checked, and none is dropped:
rows at fault are named, with their numbers, and nothing is loaded.
"""

import os
import pathlib
import re

from data_pipelines.errors import DataError
from data_pipelines.files import shown
from data_pipelines.questions import csv_files, generated, hub, records, text
from data_pipelines.questions.domain import ROLES, Domain
from data_pipelines.questions.kinds import KINDS


def is_question_spec(source: str) -> bool:
  """Whether a source is one for `load_questions`, be it right or wrong."""
  source = source.strip()
  name = re.split('[@:]', source, maxsplit=1)[0]
  return (
    name in hub.SETS
    or name in KINDS
    or _split_subset(source)[0].lower().endswith(('.csv', '.txt'))
    or any(kind.is_spec(source) for kind in KINDS.values())
  )


def known_size(spec: str) -> tuple[Domain, int] | None:
  """Domain and number of training puzzles of a SPEC that means a download.

  None of any other.
  """
  path, subset = _split_subset(spec.strip())
  if path not in hub.SETS or subset == 'test':
    return None
  return hub.SETS[path].domain, hub.SETS[path].num_train


def domain_of(spec: str) -> Domain:
  """What kind of puzzles a SPEC names, without a download.

  Raises:
    DataError: the spec or its data cannot be used.
  """
  name = re.split('[@:]', spec.strip(), maxsplit=1)[0]
  if name in hub.SETS:
    return hub.SETS[name].domain
  if name in KINDS:
    return generated.parse(name, spec.strip(), ROLES[0])[0]
  return load_questions(spec, ROLES[0], 0).domain


def load_questions(spec: str, role: str, seed: int) -> records.Questions:
  """Loads and checks the puzzles of one source.

  Args:
    spec: one of
      * `NAME[@DIR][:train|:test]`, NAME being `sudoku_extreme_1k`,
        `sudoku_extreme_full` or `maze_30x30_hard_1k`: DIR/train.csv or
        DIR/test.csv, or else that file of the Hugging Face hub. Of the first
        the train set is a random 1000 rows;
      * `sudoku[:box=3x3][:clues=27][:rating=0][:count=1000][:tests=100]
        [:seed=0][:train|:test]`, generated, see `sudoku.generate`;
      * `maze[:size=30x30][:path=110][:count=1000][:tests=100][:seed=0]
        [:train|:test]`, generated, see `maze.generate`;
      * `PATH.csv`, with the columns question and answer: Sudokus with boxes of
        2 x 2, 2 x 3 or 3 x 3, or square mazes;
      * `PATH.txt`, one puzzle, which is solved here: a Sudoku of 16, 36 or 81
        characters, on one line or several, or the lines of a maze; its free
        cells may be `.` too;
      * the characters of a Sudoku, `.` or `0` for a blank.
    role: subset of a spec that names none, `train` or `test`.
    seed: seed of the random 1000 rows.

  Raises:
    DataError: the spec or its data cannot be used.
  """
  if role not in ROLES:
    raise ValueError(f'role {role!r} is not one of {", ".join(ROLES)}')
  spec = spec.strip()
  name = re.split('[@:]', spec, maxsplit=1)[0]
  if name in KINDS:
    return generated.load(name, spec, role)
  if KINDS['sudoku'].is_spec(spec):
    return text.load(spec, 'Sudoku')
  path, subset = _split_subset(spec)
  if path.lower().endswith('.txt') and subset is None:
    return text.load(text.read(pathlib.Path(path)), shown(path))
  if name in hub.SETS:
    return hub.load(spec, path, subset or role, seed)
  if not path.lower().endswith('.csv'):
    raise DataError(
      f'{spec!r}: not a set of questions; give a .csv file or one of '
      f'{", ".join([*hub.SETS, *KINDS])}'
    )
  if subset is not None:
    raise DataError(
      f'{shown(path)}: a file has no subset; give the path without :{subset}'
    )
  file = csv_files.read(pathlib.Path(path), None)
  records.check(file)
  return file


def _split_subset(spec: str) -> tuple[str, str | None]:
  """A spec without its subset, and the subset or None."""
  path, colon, subset = spec.rpartition(':')
  if colon and subset in ROLES and not os.path.exists(spec):
    return path, subset
  return spec, None
