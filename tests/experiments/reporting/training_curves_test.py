"""Curves of a run: what of metrics.jsonl is drawn, while it is written too."""

import math

import pytest

from data_pipelines.errors import ConfigError
from experiments.reporting import training_curves


def test_a_line_that_is_being_written_waits(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  path.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
  assert training_curves.read(path) == [{'step': 1, 'loss': 2.0}]


def test_a_damaged_line_is_named(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  path.write_text('{"step": 1}\n{"loss": 2.0}\n')
  with pytest.raises(ConfigError, match='line 2 is damaged'):
    training_curves.read(path)


def test_charts_have_the_metrics_that_are_there():
  lines = [
    {'step': 10, 'loss': 2.0, 'exact_accuracy': 0.25},
    {'step': 10, 'eval/exact': 0.5},
    # The step was done again.
    {'step': 10, 'loss': 1.5},
    {'step': 20, 'loss': math.nan},
    {'step': 30, 'loss': 10**400},
  ]
  loss, training, held_out = training_curves.collect(lines)
  assert loss == {
    'title': 'Loss',
    'percent': False,
    'series': [{'name': 'loss', 'points': [[10, 1.5], [20, None], [30, None]]}],
  }
  assert training['percent']
  assert training['series'][0]['points'] == [[10, 0.25]]
  assert held_out['series'] == [{'name': 'exact', 'points': [[10, 0.5]]}]
  assert training_curves.collect([]) == []


def test_long_curves_are_thinned_to_what_one_sees():
  lines = [{'step': step, 'loss': 1.0} for step in range(1, 1203)]
  (chart,) = training_curves.collect(lines)
  steps = [step for step, _ in chart['series'][0]['points']]
  assert 300 < len(steps) <= 501
  assert (steps[0], steps[-1]) == (1, 1202)
