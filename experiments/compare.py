"""Compares runs with each other and with published results.

  hrm-jax compare [--runs=DIR,DIR,...] [--out=DIR]
      [--metric=exact]

Prints tables in Markdown: what the runs measured, a table for each set of
held-out puzzles, and apart from it every published figure with its rule and its
source. Runs that differ in their seed alone make one row: their mean and
spread. What `hrm-jax llm` and `hrm-jax compress` wrote is named in --runs too
and makes rows of its own. The last line is the same as JSON.

With --out, DIR gets comparison.md, comparison.json and, of the runs that were
evaluated during training (--config.evaluate_every), learning_curves.png: a
metric of these evaluations against optimizer steps, a line for each row with
the band of its seeds. Where runs were evaluated with several predictions of
each puzzle (evaluate --rollouts, --symmetries), a table gives the score by
their number, and width.png shows it.
"""

import json

from absl import flags

from data_pipelines import files
from experiments.cli import command, launch, shared_flags
from experiments.reporting import (
  answered,
  charts,
  comparison,
  learning_curves,
  runs,
  width_curves,
)

FLAGS = shared_flags.define('runs', *shared_flags.JAX)
shared_flags.path(
  'out', None, 'Directory to write the tables and the curves to.', FLAGS
)
flags.DEFINE_string(
  'metric', 'exact', "Metric of the curves, as metrics.jsonl names it after "
  "'eval/'.", flag_values=FLAGS,
)  # fmt: skip


def main(_) -> None:
  places = {name: files.place(name) for name in FLAGS.runs}
  others = [name for name, place in places.items() if answered.is_one(place)]
  answers = [answered.read(places[name]) for name in others]
  found = runs.read_all([name for name in FLAGS.runs if name not in others])
  measured = comparison.measure(found)
  metric = FLAGS.metric.removeprefix('eval/')
  curves = learning_curves.read([r for r in found if r.evaluations], metric)
  width = width_curves.read(found)
  more = [width_curves.report(width)] if width else []
  more += [answered.report(answers)] if answers else []
  text = command.plain(comparison.report(measured, more))
  record = {
    'measured': [one.record() for one in measured],
    'metric': metric,
    'curves': [curve.record() for curve in curves],
    'width': [one._asdict() for one in width],
    'answered': [one._asdict() for one in answers],
  }
  print(text)
  if directory := FLAGS.out:
    names = ['comparison.md', 'comparison.json']
    with command.writing(directory / names[0]) as path:
      files.write_text(path, f'# Comparison\n\n{text}\n')
      files.write_json(directory / names[1], record)
    for name, drawn in (
      ('learning_curves.png', curves and learning_curves.draw(curves, metric)),
      ('width.png', width and width_curves.draw(width)),
    ):
      if drawn:
        charts.save(drawn, directory / name)
        names.append(name)
    command.say(f'\nWritten to {directory}: {", ".join(names)}')
  print(json.dumps(record))


if __name__ == '__main__':
  command.run(main, FLAGS, launch.start)
