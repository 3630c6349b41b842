"""Measures the input pipeline of one set in a process that does nothing else.

  python -m experiments.benchmarks.input --train=SPEC [--evaluate=SPEC] ...

`hrm-jax benchmark input_pipeline` runs it for every set.
"""

import contextlib
import json
import resource
import time

from data_pipelines import puzzles
from experiments.cli import command, shared_flags

FLAGS = shared_flags.define('train', 'evaluate', num_aug=1000)
# Examples in a batch, seconds to measure for, and a position to start from.
_BATCH, _SECONDS, _FAR = 768, 10.0, 10**6


def main(_) -> None:
  """Prints one line of JSON; seconds, MiB, and rates per second."""
  begin = time.perf_counter()
  data = puzzles.load_puzzles(
    FLAGS.train, FLAGS.evaluate, canvas=30, num_aug=FLAGS.num_aug, seed=0
  )
  loaded = time.perf_counter()
  batches = data.train_batches(_BATCH, seed=0)
  next(batches)
  first = time.perf_counter()
  count = 0
  while time.perf_counter() - first < _SECONDS:
    next(batches)
    count += 1
  rate = count / (time.perf_counter() - first)
  near, far = (_first_batch(data, position) for position in (0, _FAR))
  found = {
    'set': data.describe(),
    'load': loaded - begin,
    'first_batch': first - loaded,
    'batches': rate,
    'examples': rate * _BATCH,
    'far': far - near,
    'resident': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
  }
  print(json.dumps(found))


def _first_batch(data: puzzles.PuzzleSet, position: int) -> float:
  """Seconds until the first batch from a position on."""
  begin = time.perf_counter()
  with contextlib.closing(data.train_batches(_BATCH, 0, position)) as batches:
    next(batches)
    return time.perf_counter() - begin


if __name__ == '__main__':
  command.run(main, FLAGS)
