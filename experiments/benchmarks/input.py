"""Measures the input pipeline of one set in a process that does nothing else.

  python -m experiments.benchmarks.input --train=SPEC [--evaluate=SPEC] ...

`hrm-jax benchmark input_pipeline` runs it for every set.
"""

import json
import resource
import time

from absl import flags

from data_pipelines import puzzles
from experiments.cli import command, shared_flags

FLAGS = shared_flags.define('train', 'evaluate', num_aug=1000)
flags.DEFINE_integer(
  'batch_size', 768, 'Number of examples in a batch.', flag_values=FLAGS
)
flags.DEFINE_float(
  'seconds', 10.0, 'Time to measure for in seconds.', flag_values=FLAGS
)

_FAR = 10**6


def main(_) -> None:
  """Prints one line of JSON; seconds, MiB, and rates per second."""
  begin = time.perf_counter()
  data = puzzles.load_puzzles(
    FLAGS.train, FLAGS.evaluate, canvas=30, num_aug=FLAGS.num_aug, seed=0
  )
  loaded = time.perf_counter()
  batches = data.train_batches(FLAGS.batch_size, seed=0)
  next(batches)
  first = time.perf_counter()
  count = 0
  while time.perf_counter() - first < FLAGS.seconds:
    next(batches)
    count += 1
  rate = count / (time.perf_counter() - first)
  near, far = (_first_batch(data, position) for position in (0, _FAR))
  found = {
    'set': data.describe(),
    'load': loaded - begin,
    'first_batch': first - loaded,
    'batches': rate,
    'examples': rate * FLAGS.batch_size,
    'far': far - near,
    'resident': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
  }
  print(json.dumps(found))


def _first_batch(data: puzzles.PuzzleSet, position: int) -> float:
  """Seconds until the first batch from a position on."""
  begin = time.perf_counter()
  batches = data.train_batches(FLAGS.batch_size, 0, position)
  next(batches)
  taken = time.perf_counter() - begin
  batches.close()
  return taken


if __name__ == '__main__':
  command.run(main, FLAGS)
