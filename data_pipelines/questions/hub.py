"""The papers' sets of puzzles, from the Hugging Face hub or a directory."""

import dataclasses
import os
import pathlib
from typing import Any

import numpy as np

from data_pipelines.errors import DataError
from data_pipelines.files import shown
from data_pipelines.questions import csv_files, records
from data_pipelines.questions.domain import Domain
from data_pipelines.questions.maze import Maze
from data_pipelines.questions.sudoku import Sudoku

# Seconds that the hub has to answer.
_SECONDS_TO_ANSWER = 5
_SUBSET = 1000


@dataclasses.dataclass(frozen=True)
class PublishedSet:
  """A set of the papers: its repository on the hub and what is in it.

  Attributes:
    repository: name on the Hugging Face hub.
    domain: what kind of puzzles they are.
    num_train: number of puzzles to train on.
    subset: number of training puzzles that are drawn for it; None for all.
  """

  repository: str
  domain: Domain
  num_train: int
  subset: int | None = None


SETS = {
  'sudoku_extreme_1k': PublishedSet(
    'sapientinc/sudoku-extreme', Sudoku(3, 3), _SUBSET, _SUBSET
  ),
  'sudoku_extreme_full': PublishedSet(
    'sapientinc/sudoku-extreme', Sudoku(3, 3), 3_831_994
  ),
  'maze_30x30_hard_1k': PublishedSet(
    'sapientinc/maze-30x30-hard-1k', Maze(30, 30), 1000
  ),
}


def load(spec: str, path: str, subset: str, seed: int) -> records.Questions:
  name, at, directory = path.partition('@')
  if name not in SETS or (at and not directory):
    raise DataError(f'{spec!r}: cannot be read; use NAME[@DIR][:train|:test]')
  published = SETS[name]
  if at:
    file = pathlib.Path(directory) / f'{subset}.csv'
    if not os.path.exists(file):
      raise DataError(
        f'{shown(file)}: no such file; the directory of {name}@ must hold '
        'train.csv and test.csv'
      )
  else:
    file = _download(name, published.repository, f'{subset}.csv')
  loaded = csv_files.read(file, published.domain)
  if subset == 'train' and published.subset is not None:
    wanted, count = published.subset, len(loaded.rows)
    if count < wanted:
      raise DataError(
        f'{shown(file)}: has {count} rows and {name} takes {wanted}; use a '
        'larger file, or its own path to train on all of it'
      )
    # The order of the file, so that a row is found again.
    chosen = np.random.default_rng(seed).choice(count, wanted, replace=False)
    chosen.sort()
    loaded = loaded._replace(
      version=f'{loaded.version} {wanted} rows of seed {seed}',
      questions=loaded.questions[chosen],
      answers=loaded.answers[chosen],
      rows=loaded.rows[chosen],
    )
  loaded = loaded._replace(version=f'{name} {loaded.version}')
  records.check(loaded)
  return loaded


def _download(name: str, repository: str, file: str) -> pathlib.Path:
  """A file of the hub, from its cache where it is there already."""
  local = f'or give {name}@DIR, the directory of train.csv and test.csv'
  try:
    import huggingface_hub
  except ImportError as e:
    raise DataError(
      f"{name}: needs huggingface_hub; pip install 'hrm-jax[hub]', {local}"
    ) from e
  offline = _offline(huggingface_hub, repository, file)
  try:
    return pathlib.Path(
      huggingface_hub.hf_hub_download(
        repository,
        file,
        repo_type='dataset',
        etag_timeout=_SECONDS_TO_ANSWER,
        local_files_only=bool(offline),
      )
    )
  # Whatever the network, the hub or the disk had to say.
  except Exception as e:
    reason = ' '.join((offline or f'{type(e).__name__}: {e}').split())[:200]
    raise DataError(
      f'{name}: {file} of {repository} could not be had from the Hugging Face '
      f'hub; look at the network, {local} ({reason})'
    ) from e


def _offline(huggingface_hub: Any, repository: str, file: str) -> str:
  """Why the hub does not answer; empty where it does.

  One question only: by itself a download asks again for half a minute before
  it says that there is no network.
  """
  try:
    huggingface_hub.get_session().head(
      huggingface_hub.hf_hub_url(repository, file, repo_type='dataset'),
      timeout=_SECONDS_TO_ANSWER,
    )
  except Exception as e:
    return f'{type(e).__name__}: {e}'
  return ''
