"""Reads the curves of a training run from its metrics.jsonl.

It does without JAX, so that a notebook can look on while a process trains.
"""

import json
import math
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from data_pipelines import files, sampler
from data_pipelines.errors import ConfigError

# Greatest number of points of a curve; the eye has no use for more.
_MAX_POINTS = 500

# The title, whether in percent, and the metrics of each chart.
_CHARTS = (
  ('Loss', False, ('loss', 'lm_loss', 'q_halt_loss', 'q_continue_loss')),
  ('Training examples, augmented', True,
   ('exact_accuracy', 'accuracy', 'q_halt_accuracy')),
  ('Held-out puzzles, evaluated while training', True,
   ('eval/exact', 'eval/accuracy', 'eval/valid', 'eval/pass@1/outputs',
    'eval/pass@2/outputs')),
  ('Segments until a puzzle halts', False, ('steps',)),
  ('Learning rate', False, ('learning_rate',)),
  ('Gradient norm', False, ('gradient_norm',)),
)  # fmt: skip


def read(path: pathlib.Path) -> list[dict[str, Any]]:
  """Reads the lines of a metrics.jsonl, but not a last one that is cut off."""
  # What is not UTF-8 is no JSON either, and told with its line.
  texts = files.read(path).decode(errors='replace').split('\n')
  found = []
  # After the last line break comes nothing, or a line cut off.
  for number, text in enumerate(texts[:-1], 1):
    try:
      line = json.loads(text)
      if not isinstance(line, dict) or type(line.get('step')) is not int:
        raise ValueError('no object with a step')
    except (ValueError, RecursionError) as error:
      raise ConfigError(
        f'{path}: line {number} is damaged ({error}); remove that line'
      ) from None
    found.append(line)
  return found


def collect(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
  """Collects the points of the charts; those without any are left out.

  A chart has a `title`, whether it is in `percent`, and `series`, each with a
  `name` and `points`: pairs of a step and a value, which is None where it is no
  finite number.
  """
  found = []
  for title, percent, names in _CHARTS:
    series = []
    for name in names:
      # Where a step was done again, its last line counts.
      values = {line['step']: line[name] for line in lines if name in line}
      steps = sorted(values)
      spread = sampler.spread(len(steps), _MAX_POINTS)
      # The last value is written beside the curve.
      steps = sorted({steps[i] for i in spread} | {*steps[-1:]})
      points = [[step, _number(values[step])] for step in steps]
      if points:
        name = name.removeprefix('eval/')
        series.append({'name': name, 'points': points})
    if series:
      found.append({'title': title, 'percent': percent, 'series': series})
  return found


def _number(value: Any) -> float | None:
  """Rounds a number to four digits; returns None for what no chart can show."""
  if type(value) in (int, float) and abs(value) <= sys.float_info.max:
    rounded = float(f'{value:.4g}')  # The largest ones become infinite.
    return rounded if math.isfinite(rounded) else None
  return None
