"""Learning curves: means, bands, and what may not share a chart."""

import json
import subprocess
import sys

import pytest
from PIL import Image

from data_pipelines.errors import ConfigError
from experiments import learning_curves
from experiments.configs import base, sudoku
from experiments.drawing import charts
from experiments.reporting import runs

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


def test_last_values_as_text_and_as_json(systems):
  curves = _read(systems)
  _, header, hrm, trm = learning_curves.table(curves, 'exact').splitlines()
  assert header.split()[:4] == ['mean', 'min', 'max', 'runs']
  assert hrm.split()[:6] == ['HRM', '30.00', '10.00', '60.00', '3', '20']
  assert trm.split()[2:7] == ['70.00', '70.00', '70.00', '1', '30']
  record = learning_curves.record(curves, 'exact')
  assert record['groups'][0]['mean'] == pytest.approx(0.3)
  assert record['groups'][0]['seeds'] == [0, 1, 2]
  assert record['groups'][1]['step'] == 30
  assert json.loads(json.dumps(record)) == record


def test_counts_are_not_percent(systems):
  text = learning_curves.table(_read(systems, 'steps'), 'steps')
  assert 'percent' not in text
  assert '8.00' in text


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
  'changes, version, part',
  [
    ({'evaluation.max_puzzles': 5}, _DATA, 'evaluation.max_puzzles 0 there, 5'),
    ({'evaluation.halting': 'act'}, _DATA, 'halting fixed there, act here'),
    ({}, _DATA + 'c', 'held out generated sudoku b there'),
  ],
)
def test_other_puzzles_or_other_scoring_is_another_chart(
  systems, write_run, changes, version, part
):
  config = sudoku.get_config('demo')
  config.batch_size = 8
  config.update_from_flattened_dict(changes)
  other = write_run('other', config, version, evaluations=_lines(0.5))
  message = _error([*systems, other])
  assert str(other) in message
  assert part in message


def test_a_value_that_is_no_number_is_named(write_run):
  directory = write_run(
    'run', sudoku.get_config('demo'), _DATA, evaluations=_lines(0.1, 'much')
  )
  message = _error([directory])
  assert 'metrics.jsonl' in message
  assert "eval/exact at step 20 is 'much'" in message


def test_a_run_without_evaluations_says_how_to_get_them(write_run):
  directory = write_run('run', sudoku.get_config('demo'), _DATA)
  assert 'evaluate_every' in _error([directory])


def test_a_real_run_has_a_curve(trained_run, tmp_path):
  (curve,) = _read([trained_run], 'accuracy')
  assert curve.steps == [2, 4]
  path = tmp_path / 'curves.png'
  charts.save(learning_curves.draw([curve], 'accuracy'), path)
  with Image.open(path) as image:
    assert image.format == 'PNG'
    assert image.width > 800


def _command(*arguments):
  return subprocess.run(
    [sys.executable, '-m', 'experiments.learning_curves', *map(str, arguments)],
    capture_output=True,
    text=True,
    timeout=120,
    check=False,
  )


def test_command_draws_and_prints_json_last(systems, tmp_path):
  out = tmp_path / 'deep' / 'curves.png'
  names = ','.join(map(str, systems))
  done = _command(f'--runs={names}', f'--out={out}')
  assert (done.returncode, done.stderr) == (0, '')
  record = json.loads(done.stdout.splitlines()[-1])
  assert record['out'] == str(out)
  assert [group['system'] for group in record['groups']] == [
    'HRM',
    'TRM attention',
  ]
  with Image.open(out) as image:
    assert image.format == 'PNG'


def test_command_says_what_is_wrong_in_one_line(systems, tmp_path):
  for flags, part in (
    ([], '--runs is missing'),
    ([f'--runs={systems[0]}', '--out=curves.pdf'], 'must end in .png'),
    (
      [f'--runs={systems[0]}', f'--out={tmp_path}/a.png', '--metric=x'],
      '--metric=x is not',
    ),
  ):
    done = _command(*flags)
    assert done.returncode == 2
    assert done.stdout == ''
    (line,) = done.stderr.splitlines()
    assert part in line
