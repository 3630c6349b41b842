"""Measures the input pipeline of one set, in a process that does nothing else.

  python -m experiments.benchmarks.input --train=SPEC [--evaluate=SPEC] ...

`python -m experiments.benchmark input_pipeline` runs it for every set.
"""

import json
import resource
import time

from absl import flags

from data_pipelines import puzzles
from experiments.cli import command, data_flags

_BATCH_SIZE = flags.DEFINE_integer('batch_size', 768, 'Examples.')
_SECONDS = flags.DEFINE_float('seconds', 10.0, 'To measure for.')

_FAR = 10**6


def main(_) -> None:
  """Prints one line of JSON; seconds, MiB, and rates per second."""
  num_aug = data_flags.NUM_AUG.value
  begin = time.perf_counter()
  data = puzzles.load_puzzles(
    data_flags.TRAIN.value,
    data_flags.EVALUATE.value,
    canvas=30,
    num_aug=1000 if num_aug is None else num_aug,
    seed=0,
  )
  loaded = time.perf_counter()
  batches = data.train_batches(_BATCH_SIZE.value, seed=0)
  next(batches)
  first = time.perf_counter()
  count = 0
  while time.perf_counter() - first < _SECONDS.value:
    next(batches)
    count += 1
  rate = count / (time.perf_counter() - first)
  near, far = (_first_batch(data, position) for position in (0, _FAR))
  print(
    json.dumps(
      {
        'set': data.describe(),
        'load': loaded - begin,
        'first_batch': first - loaded,
        'batches': rate,
        'examples': rate * _BATCH_SIZE.value,
        'far': far - near,
        'resident': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
      }
    )
  )


def _first_batch(data: puzzles.PuzzleSet, position: int) -> float:
  """Seconds until the first batch from a position on."""
  begin = time.perf_counter()
  batches = data.train_batches(_BATCH_SIZE.value, 0, position)
  next(batches)
  taken = time.perf_counter() - begin
  batches.close()
  return taken


if __name__ == '__main__':
  command.run(main)
