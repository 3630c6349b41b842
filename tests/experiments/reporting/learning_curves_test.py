"""Learning curves: means, bands, and what may not share an axis."""

import json

import pytest
from PIL import Image

from data_pipelines.errors import ConfigError
from experiments.configs import base, sudoku
from experiments.reporting import charts, learning_curves, runs

_DATA = 'train generated sudoku a; evaluate generated sudoku b'


def _lines(*values, first=10):
  return [
    {'step': first * (i + 1), 'eval/exact': value, 'eval/steps': 8.0}
    for i, value in enumerate(values)
  ]


@pytest.fixture
def systems(write_run):
  """Three seeds of HRM and one of TRM."""
  directories = []
  for seed, values in enumerate(([0.1, 0.2], [0.3, 0.6], [0.2, 0.1])):
    config = sudoku.get_config('demo')
    config.seed = seed
    directories.append(
      write_run(f'hrm_{seed}', config, _DATA, evaluations=_lines(*values))
    )
  directories.append(
    write_run(
      'trm', base.get_config('trm'), _DATA, evaluations=_lines(0.4, 0.5, 0.7)
    )
  )
  return directories


def _read(directories, metric='exact'):
  return learning_curves.read(runs.read_all(directories), metric)


def test_a_line_for_each_group_with_mean_and_band(systems):
  hrm, trm = _read(systems)
  assert (hrm.label, trm.label) == ('HRM', 'TRM attention')
  assert hrm.steps == [10, 20]
  assert hrm.over_runs(min) == [0.1, 0.1]
  assert hrm.over_runs(max) == [0.3, 0.6]
  figure = learning_curves.draw([hrm, trm], 'exact')
  (axes,) = figure.axes
  first, second = axes.lines
  assert first.get_ydata() == pytest.approx([0.2, 0.3])
  assert list(second.get_xdata()) == [10, 20, 30]
  (band,) = axes.collections
  heights = band.get_paths()[0].vertices[:, 1]
  assert (heights.min(), heights.max()) == pytest.approx((0.1, 0.6))
  assert first.get_label() == 'HRM, no checkpoint, 3 seeds'
  assert second.get_label() == 'TRM attention, no checkpoint, 1 seed'


def test_arithmetic_is_an_axis_where_all_tell_it(systems):
  def tell(directory, flops):
    path = directory / 'config.json'
    path.write_text(
      json.dumps(json.loads(path.read_text()) | {'step_flops': flops})
    )

  for directory in systems[:3]:
    tell(directory, 2e12)
  assert len(learning_curves.draw(_read(systems), 'exact').axes) == 1
  tell(systems[3], 3e12)
  steps, flops = learning_curves.draw(_read(systems), 'exact').axes
  assert list(steps.lines[1].get_xdata()) == [10, 20, 30]
  assert list(flops.lines[0].get_xdata()) == [20, 40]
  assert list(flops.lines[1].get_xdata()) == [30, 60, 90]
  assert flops.get_xlabel() == 'TFLOP of training'
  for wrong in (-1.0, True, 'many', float('inf')):
    tell(systems[0], wrong)
    with pytest.raises(ConfigError, match=r'step_flops is .* positive number'):
      _read(systems)


def test_curves_as_json(systems):
  hrm, trm = (curve.record() for curve in _read(systems))
  assert hrm['mean'] == pytest.approx([0.2, 0.3])
  assert (hrm['min'], hrm['max']) == ([0.1, 0.1], [0.3, 0.6])
  assert hrm['seeds'] == [0, 1, 2]
  assert trm['steps'] == [10, 20, 30]
  assert json.loads(json.dumps(hrm)) == hrm


def test_counts_are_not_percent(systems):
  for metric, percent in (('steps', False), ('exact', True)):
    figure = learning_curves.draw(_read(systems, metric), metric)
    (axes,) = figure.axes
    label = axes.yaxis.get_major_formatter()(0.5)
    assert label.endswith('%') == percent


def test_means_are_over_all_seeds_or_not_at_all(write_run):
  directories = []
  for seed, lines in enumerate((_lines(0.1, 0.2, 0.3), _lines(0.5, first=20))):
    config = sudoku.get_config('demo')
    config.seed = seed
    directories.append(
      write_run(f'run_{seed}', config, _DATA, evaluations=lines)
    )
  (curve,) = _read(directories)
  assert curve.steps == [20]
  assert curve.values == [[0.2], [0.5]]


def _error(directories, metric='exact'):
  with pytest.raises(ConfigError) as error:
    _read(directories, metric)
  message = str(error.value)
  assert '\n' not in message
  return message


def test_seeds_without_a_common_step_are_refused(write_run):
  directories = []
  for seed, first in enumerate((10, 15)):
    config = sudoku.get_config('demo')
    config.seed = seed
    lines = _lines(0.1, first=first)
    directories.append(
      write_run(f'run_{seed}', config, _DATA, evaluations=lines)
    )
  assert 'never evaluated at the same step' in _error(directories)


def test_unknown_metric_lists_those_there_are(systems):
  message = _error(systems, 'accurate')
  assert '--metric=accurate' in message
  assert 'there are exact, steps' in message


@pytest.mark.parametrize(
  'changes, version, title',
  [
    (
      {'evaluation.max_puzzles': 5},
      _DATA,
      'generated sudoku b, halting: fixed, max_puzzles: 5',
    ),
    ({'evaluation.halting': 'act'}, _DATA, 'generated sudoku b, halting: act'),
    ({}, _DATA + 'c', 'generated sudoku bc, halting: fixed'),
  ],
)
def test_other_puzzles_or_other_scoring_is_another_panel(
  systems, write_run, changes, version, title
):
  config = sudoku.get_config('demo')
  config.batch_size = 8
  config.update_from_flattened_dict(changes)
  other = write_run('other', config, version, evaluations=_lines(0.5))
  curves = _read([*systems, other])
  assert [curve.label for curve in curves] == ['HRM', 'TRM attention', 'HRM']
  first, second = learning_curves.draw(curves, 'exact').axes
  assert len(first.lines) == 2
  assert len(second.lines) == 1
  assert first.get_title(loc='left') == 'generated sudoku b, halting: fixed'
  assert second.get_title(loc='left') == title


def test_a_value_that_is_no_number_is_named(write_run):
  directory = write_run(
    'run', sudoku.get_config('demo'), _DATA, evaluations=_lines(0.1, 'much')
  )
  message = _error([directory])
  assert 'metrics.jsonl' in message
  assert "eval/exact at step 20 is 'much'" in message


@pytest.mark.parametrize('text', [None, '', '{"step": 1, "loss": 2.0}\n'])
def test_a_run_without_evaluations_says_how_to_get_them(write_run, text):
  directory = write_run('run', sudoku.get_config('demo'), _DATA)
  if text is None:
    (directory / 'metrics.jsonl').unlink()
  else:
    (directory / 'metrics.jsonl').write_text(text)
  assert 'holds no evaluation; train with --config' in _error([directory])


def test_a_real_run_has_a_curve(trained_run, tmp_path):
  (curve,) = _read([trained_run], 'accuracy')
  assert curve.steps == [2, 4]
  path = tmp_path / 'curves.png'
  charts.save(learning_curves.draw([curve], 'accuracy'), path)
  with Image.open(path) as image:
    assert image.format == 'PNG'
    assert image.width > 800
