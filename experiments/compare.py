"""Compares runs with each other and with the results that others published.

  python -m experiments.compare [--runs=DIR,DIR,...] [--out=DIR]
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
import pathlib

from absl import flags

from data_pipelines import files
from experiments.cli import data_flags, launch
from experiments.drawing import charts
from experiments.reporting import comparison, learning_curves, runs

RUNS = flags.DEFINE_list(
  'runs', [], 'Directories of training runs, separated by commas.'
)
_METRIC = flags.DEFINE_string(
  'metric',
  'exact',
  "Metric of the curves, as metrics.jsonl names it after 'eval/'.",
)


def main(_) -> None:
  found = runs.read_all(RUNS.value)
  measured = comparison.measure(found)
  metric = _METRIC.value.removeprefix('eval/')
  curves = learning_curves.read([r for r in found if r.evaluations], metric)
  text = comparison.report(measured)
  record = {
    'measured': [one.record() for one in measured],
    'metric': metric,
    'curves': [curve.record() for curve in curves],
  }
  print(text)
  if data_flags.OUT.value:
    directory = pathlib.Path(data_flags.OUT.value)
    with charts.writing(directory / 'comparison.md') as path:
      files.write_text(path, f'# Comparison\n\n{text}\n')
      files.write_json(directory / 'comparison.json', record)
    if curves:
      drawn = learning_curves.draw(curves, metric)
      charts.save(drawn, directory / 'learning_curves.png')
    names = 'comparison.md, comparison.json'
    names += ', learning_curves.png' * bool(curves)
    print(f'\nWritten to {directory}: {names}')
  print(json.dumps(record))


if __name__ == '__main__':
  launch.run(main)
