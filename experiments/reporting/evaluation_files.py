"""The files of an evaluation: scores, predictions, a submission, a picture."""

import pathlib
import re
from collections.abc import Iterable

from data_pipelines import scoring
from data_pipelines.errors import ConfigError
from hrm_jax.solver import Evaluation

# Longest name of a file without its prefix and suffix, in bytes.
_LONGEST = 100


def make_directory(directory: pathlib.Path) -> None:
  """Makes the directory, which is better known before the work.

  Raises:
    ConfigError: it cannot be written.
  """
  try:
    directory.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise ConfigError(
      f'{directory}: cannot be written ({error.strerror}); name a place of '
      'yours'
    ) from None


def write(found: Evaluation, directory: pathlib.Path) -> list[str]:
  """Writes the files, each whole or not at all, and returns their names.

  scores.json (the facts and the metrics) and predictions.png; of ARC tasks
  submission.json (two attempts, Kaggle's form) and predictions.json (ranked
  candidates with votes), of other puzzles predictions.csv.
  """
  if found.tasks:
    scoring.write_votes(
      directory, found.tasks, found.candidates, found.facts | found.metrics
    )
    kinds = ['submission.json', 'predictions.json']
  else:
    (judge,) = found.judges
    judge.write(directory, found.facts)
    kinds = ['predictions.csv']
  return [*kinds, 'scores.json', 'predictions.png']


def distinct_names(titles: Iterable[str]) -> list[str]:
  """A name of a file for each title: none of a directory, none like another.

  Odd characters become `_`, names are cut, and one that is there already, be
  it in other letters' case, gets a number.
  """
  names = []
  for title in titles:
    name = re.sub(r'[^\w.-]', '_', title).lstrip('.') or 'puzzle'
    name = name.encode()[:_LONGEST].decode(errors='ignore')
    taken, number, first = {n.casefold() for n in names}, 1, name
    while name.casefold() in taken:
      number += 1
      name = f'{first}_{number}'
    names.append(name)
  return names
