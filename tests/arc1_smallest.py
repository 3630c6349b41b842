"""Writes the 24 tasks of ARC-1 by which CompressARC is measured.

  python -m tests.arc1_smallest DIR
  hrm-jax compress --task=DIR --out=OUT

They are chosen by size alone: of the training and of the evaluation tasks whose
grids all fit 10 × 10 the twelve with the fewest array positions each, by name
where these are equal.
"""

import json
import pathlib
import sys
from collections.abc import Sequence

from data_pipelines.arc.tasks import Task, as_json, load_tasks
from hrm_jax.compressarc.problem import prepare

COUNT, SIDE = 12, 10


def smallest(subset: str) -> Sequence[Task]:
  """The tasks of `training` or `evaluation`."""

  def size(task: Task) -> tuple[int, str]:
    E, C, X, Y = prepare(task).sizes.tolist()
    return E * (C + 1) * (X + 1) * (Y + 1), task.name

  tasks = load_tasks(f'arc1:{subset}').tasks
  return sorted((x for x in tasks if x.fits(SIDE)), key=size)[:COUNT]


def main(directory: str) -> None:
  """Writes them as files of tasks."""
  for subset in ('training', 'evaluation'):
    folder = pathlib.Path(directory) / subset
    folder.mkdir(parents=True)
    for task in smallest(subset):
      path = folder / f'{task.name}.json'
      path.write_text(json.dumps(as_json(task)))


if __name__ == '__main__':
  main(*sys.argv[1:])
