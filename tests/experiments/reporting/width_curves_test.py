"""Scores by the number of predictions: what is read, meant and drawn."""

import json

import pytest

from data_pipelines.errors import ConfigError, DataError
from experiments.configs import sudoku
from experiments.reporting import runs, width_curves

_DATA = 'train generated sudoku a; evaluate generated sudoku b'
_ASKED = 'evaluation/step_6_rollouts_4'


def _wide(vote, possible, counts=(1, 2, 4)):
  rules = {'q': vote, 'vote': vote, 'frequent': vote, 'possible': possible}
  return {
    f'eval/exact/{rule}@{count}': value
    for rule, values in rules.items()
    for count, value in zip(counts, values, strict=True)
  }


@pytest.fixture
def asked(write_run):
  """Runs with two seeds, each asked once and four times."""
  directories = []
  for seed, vote in enumerate(([0.5, 0.5, 0.6], [0.3, 0.4, 0.8])):
    config = sudoku.get_config('demo')
    config.seed = seed
    once = {'eval/exact': vote[0], 'eval/accuracy': 0.9, 'eval/steps': 8.0}
    run = write_run(f'hrm_{seed}', config, _DATA, once)
    (plain,) = (run / 'evaluation').glob('*/scores.json')
    path = run / _ASKED / 'scores.json'
    path.parent.mkdir()
    wide = json.loads(plain.read_text()) | _wide(vote, [vote[0], 0.8, 1.0])
    path.write_text(json.dumps(wide))
    directories.append(run)
  return directories


def _read(directories):
  return width_curves.read(runs.read_all(directories))


def test_means_and_bands_of_each_rule(asked):
  (found,) = _read(asked)
  assert (found.asked, found.seeds, found.counts) == (_ASKED, [0, 1], [1, 2, 4])
  assert found.values['vote'] == [[0.5, 0.3], [0.5, 0.4], [0.6, 0.8]]
  lines = width_curves.report([found]).splitlines()
  cells = [
    [cell.strip() for cell in line.split('|')[1:-1]]
    for line in lines
    if line.startswith('|')
  ]
  assert cells[0] == [
    *('predictions', 'segments', 'q', 'vote', 'frequent', 'possible'),
  ]
  assert cells[-1] == [
    *('4', '32', *['70.0 (60.0 … 80.0)'] * 3, '100.0 (100.0 … 100.0)'),
  ]
  (axes,) = width_curves.draw([found]).axes
  assert [line.get_label() for line in axes.lines] == cells[0][2:]
  assert list(axes.lines[1].get_xdata()) == [1, 2, 4]
  assert axes.lines[1].get_ydata() == pytest.approx([0.4, 0.45, 0.7])
  heights = axes.collections[1].get_paths()[0].vertices[:, 1]
  assert (heights.min(), heights.max()) == (0.3, 0.8)


def test_only_what_all_runs_were_asked_counts(asked):
  path = asked[1] / _ASKED
  path.rename(path.with_name('step_6_rollouts_4_noise_0.5'))
  assert not _read(asked)
  assert [one.seeds for one in _read(asked[1:])] == [[1]]
  assert '80.0' in width_curves.report(_read(asked[1:]))
  assert '…' not in width_curves.report(_read(asked[1:])).split('vote')[1]


def test_evaluations_of_other_numbers_cannot_be_one(asked):
  path = asked[1] / _ASKED / 'scores.json'
  path.write_text(path.read_text().replace('vote@4', 'vote@8'))
  with pytest.raises(ConfigError, match=r'not all have the same .*again'):
    _read(asked)


@pytest.fixture
def followed(asked):
  """Their answers after each segment too."""
  for number, run in enumerate(asked):
    numbers = {
      'segments': [1, 2, 3, 4],
      'exact': [0.1, 0.3, 0.4, 0.25 + number / 4],
      'chosen': {'segments': [1, 2, 4], 'q': [0.1, 0.3, 0.5]},
    }
    path = run / 'analysis/step_6/segments.json'
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({'numbers': numbers, 'settings': {'rows': 9}}))
  return asked


def test_answers_after_each_segment(followed):
  found, asked = _read(followed)
  assert (found.asked, asked.asked) == ('analysis/step_6, 9 rows', _ASKED)
  assert (found.counts, found.segments) == ([1, 2, 4], 1)
  assert found.values == {
    'last': [[0.1, 0.1], [0.3, 0.3], [0.25, 0.5]],
    'q': [[0.1, 0.1], [0.3, 0.3], [0.5, 0.5]],
  }
  titles = [axes.get_title('left') for axes in width_curves.draw([found]).axes]
  assert titles == [f'{found.label}, {found.asked}']


def test_analyses_of_other_rows_or_without_choice_are_left_alone(followed):
  path = followed[0] / 'analysis/step_6/segments.json'
  text = path.read_text()
  path.write_text(text.replace('"rows": 9', '"rows": 8'))
  assert [one.asked for one in _read(followed)] == [_ASKED]
  path.write_text(text.replace('chosen', 'ARC has none'))
  assert [one.asked for one in _read(followed)] == [_ASKED]


@pytest.mark.parametrize('broken', ['[]', '{"numbers": {"chosen": 1}}', '{'])
def test_a_damaged_analysis_is_named(followed, broken):
  path = followed[0] / 'analysis/step_6/segments.json'
  path.write_text(broken)
  with pytest.raises((ConfigError, DataError), match=r'segments\.json'):
    _read(followed)
