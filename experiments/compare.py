"""Compares runs with each other and with published results.

  hrm-jax compare [--runs=DIR,DIR,...] [--out=DIR]
      [--metric=exact]

Prints tables in Markdown: what the runs measured, a table for each set of
held-out puzzles, and apart from it every published figure with its rule and its
source. Runs that differ in their seed alone make one row: their mean and
spread. The last line is the same as JSON.

With --out, DIR gets comparison.md, comparison.json and, of the runs that were
evaluated during training (--config.evaluate_every), learning_curves.png: a
metric of these evaluations against optimizer steps, a line for each row with
the band of its seeds.
"""

import json

from absl import flags

from data_pipelines import files
from experiments.cli import command, launch, shared_flags
from experiments.reporting import charts, comparison, learning_curves, runs

FLAGS = shared_flags.define('runs', *shared_flags.JAX)
shared_flags.path(
  'out', None, 'Directory to write the tables and the curves to.', FLAGS
)
flags.DEFINE_string(
  'metric', 'exact', "Metric of the curves, as metrics.jsonl names it after "
  "'eval/'.", flag_values=FLAGS,
)  # fmt: skip


def main(_) -> None:
  found = runs.read_all(FLAGS.runs)
  measured = comparison.measure(found)
  metric = FLAGS.metric.removeprefix('eval/')
  curves = learning_curves.read([r for r in found if r.evaluations], metric)
  text = command.plain(comparison.report(measured))
  record = {
    'measured': [one.record() for one in measured],
    'metric': metric,
    'curves': [curve.record() for curve in curves],
  }
  print(text)
  if directory := FLAGS.out:
    with command.writing(directory / 'comparison.md') as path:
      files.write_text(path, f'# Comparison\n\n{text}\n')
      files.write_json(directory / 'comparison.json', record)
    if curves:
      drawn = learning_curves.draw(curves, metric)
      charts.save(drawn, directory / 'learning_curves.png')
    names = 'comparison.md, comparison.json'
    names += ', learning_curves.png' * bool(curves)
    command.say(f'\nWritten to {directory}: {names}')
  print(json.dumps(record))


if __name__ == '__main__':
  command.run(main, FLAGS, launch.start)
