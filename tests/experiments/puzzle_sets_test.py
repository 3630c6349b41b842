"""Training and evaluation of every kind of set, and what leaks between two."""

import csv
import json

import jax
import numpy as np
import pytest

from data_pipelines import puzzles
from data_pipelines.errors import ConfigError
from data_pipelines.published import writer
from experiments import evaluate
from experiments.configs import arc1, arc2, maze, sudoku
from hrm_jax import build
from tests import builders

pytestmark = pytest.mark.slow

SUDOKU = 'sudoku:box=2x2:clues=10:count=20:tests=9'
MAZE = 'maze:size=4x4:path=3:count=12:tests=9'


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
  folder = tmp_path_factory.getbasetemp() / 'cache'
  monkeypatch.setenv('HRM_JAX_CACHE', str(folder))


def _config(spec, **changes):
  """The Sudoku demo at a size that compiles and runs in seconds."""
  config = sudoku.get_config('demo')
  config.data.train = config.data.evaluate = spec
  config.data.num_aug = 3
  config.batch_size = 16
  config.model.hidden_size = config.model.puzzle_emb_ndim = 32
  config.model.H_layers = config.model.L_layers = 1
  config.model.expansion = 1.0
  config.act.halt_max_steps = 2
  config.total_steps = 4
  config.log_every = config.checkpoint_every = 2
  config.evaluation.batch_size = 8
  config.update_from_flattened_dict(changes)
  return config


def _published(tmp_path, spec):
  directory = tmp_path / 'published'
  data = puzzles.load_puzzles(spec, spec, 30, 3, 0)
  writer.export(data, directory, 'hrm', 0)
  return str(directory)


@pytest.mark.parametrize('kind', ['maze', 'published sudoku'])
def test_questions_are_trained_on_continued_and_scored(tmp_path, capsys, kind):
  spec = MAZE if kind == 'maze' else SUDOKU
  if kind.startswith('published'):
    spec = _published(tmp_path, spec)
  straight = builders.train(_config(spec), tmp_path / 'straight')
  workdir = tmp_path / 'run'
  builders.train(_config(spec, stop_at_step=2), workdir)
  state = builders.train(_config(spec, evaluate_every=4), workdir)
  jax.tree.map(np.testing.assert_array_equal, state, straight)

  judge = evaluate.run(workdir)
  output = capsys.readouterr().out
  assert 'Exact accuracy' in output and 'Valid solutions' in output
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  line = json.loads(lines[-1])
  assert judge.metrics.keys() == {
    *('eval/exact', 'eval/accuracy', 'eval/valid', 'eval/steps')
  }
  # The same as training's own evaluation of the same step.
  assert judge.metrics.items() <= line.items()
  assert line['eval/leaking_answers'] == 0
  directory = workdir / 'evaluation' / 'step_4'
  scores = json.loads((directory / 'scores.json').read_text())
  assert scores['rows'] == 9
  assert scores['leaks'] == {'answers': 0, 'leaks': [], 'allow_leaks': False}
  with open(directory / 'predictions.csv', newline='') as file:
    rows = list(csv.DictReader(file))
  assert len(rows) == 9
  assert all(row['question'] and row['valid'] in '01' for row in rows)
  exact = np.mean([row['prediction'] == row['answer'] for row in rows])
  assert exact == pytest.approx(judge.metrics['eval/exact'])

  evaluate.run(workdir, max_puzzles=4)
  other = directory.with_name('step_4_4_puzzles')
  assert json.loads((other / 'scores.json').read_text())['rows'] == 4


def _write_tasks(directory, *numbers):
  directory.mkdir()
  for number in numbers:
    rng = np.random.default_rng(number)
    pairs = [
      {
        name: rng.integers(0, 10, (3, 3)).tolist()
        for name in ('input', 'output')
      }
      for _ in range(3)
    ]
    task = {'train': pairs[:2], 'test': pairs[2:]}
    (directory / f'task{number}.json').write_text(json.dumps(task))
  return directory


def test_published_arc_is_trained_on_and_scored(tmp_path, capsys):
  held_out = _write_tasks(tmp_path / 'tasks', 1, 2)
  data = puzzles.load_puzzles('', str(held_out), 4, 3, 0)
  writer.export(data, tmp_path / 'published', 'trm', 0)
  config = _config(str(tmp_path / 'published'), stop_at_step=2)
  builders.train(config, tmp_path / 'run')
  judge = evaluate.run(tmp_path / 'run')
  assert 'pass@2' not in capsys.readouterr().err
  assert judge.results[0].scores[2].outputs.scored == 2
  names = [(f'task{i}', 0) for i in (1, 2)]
  assert set(judge.candidates) == set(names)
  # The directory may lie elsewhere when the run is evaluated.
  assert judge.metrics['eval/steps'] == 2


@pytest.fixture
def leaking(tmp_path):
  """A test pair of `held_out` is a demonstration of `trained`."""
  held_out = _write_tasks(tmp_path / 'held_out', 1, 2)
  trained = _write_tasks(tmp_path / 'trained', 3)
  test = json.loads((held_out / 'task2.json').read_text())['test'][0]
  path = trained / 'task3.json'
  task = json.loads(path.read_text())
  turned = {name: np.rot90(grid).tolist() for name, grid in test.items()}
  task['train'].append(turned)
  path.write_text(json.dumps(task))
  return {
    'data.train': str(trained),
    'data.evaluate': str(held_out),
    'data.canvas': 5,
  }


def test_a_leaking_mixture_is_refused(tmp_path, leaking):
  with pytest.raises(ConfigError, match='1 held-out answer: task3->task2'):
    builders.train(_config('', **leaking), tmp_path / 'run')
  assert not (tmp_path / 'run').exists()
  # Another leak is known: this one is not.
  changes = {**leaking, 'data.known_leaks': ('task1->task1',)}
  with pytest.raises(ConfigError, match='task3->task2'):
    builders.train(_config('', **changes), tmp_path / 'run')


def test_a_listed_leak_is_accepted(leaking):
  changes = {**leaking, 'data.known_leaks': ('task3->task2',)}
  settings = builders.settings(_config('', **changes))
  verdict = build.check_leaks(settings, build.puzzle_set(settings))
  assert verdict.record() == {
    'answers': 1,
    'leaks': [
      {
        'held_out': 'task2',
        'held_out_place': 'test[0]',
        'trained': 'task3',
        'trained_place': 'train[2]',
        'kind': 'both',
      }
    ],
    'allow_leaks': False,
  }


def test_an_allowed_leak_is_recorded_with_every_score(
  tmp_path, capsys, leaking
):
  changes = {**leaking, 'data.allow_leaks': True, 'evaluate_every': 2}
  config = _config('', **changes)
  builders.train(config, tmp_path / 'run')
  lines = (tmp_path / 'run' / 'metrics.jsonl').read_text().splitlines()
  found = [json.loads(line) for line in lines]
  scored = [line for line in found if 'eval/exact' in line]
  assert [line['eval/leaking_answers'] for line in scored] == [1, 1]
  evaluate.run(tmp_path / 'run')
  assert 'Trained on 1 held-out answer: task3->task2' in capsys.readouterr().out
  path = tmp_path / 'run' / 'evaluation' / 'step_4' / 'scores.json'
  assert json.loads(path.read_text())['leaks'] == {
    'answers': 1,
    'leaks': [
      {
        'held_out': 'task2',
        'held_out_place': 'test[0]',
        'trained': 'task3',
        'trained_place': 'train[2]',
        'kind': 'both',
      }
    ],
    'allow_leaks': True,
  }

  # What was trained on stays so, whatever becomes of the data.
  path = tmp_path / 'trained' / 'task3.json'
  task = json.loads(path.read_text())
  del task['train'][2:]
  path.write_text(json.dumps(task))
  evaluate.run(tmp_path / 'run')
  assert 'task3->task2' in capsys.readouterr().out


@pytest.mark.parametrize(
  ('config_file', 'variant', 'concept', 'spec', 'tasks'),
  [
    (arc1, 'paper', False, 'arc1:training', 800),
    (arc1, 'paper', True, 'arc1:training,concept', 802),
    (arc1, 'demo', False, '', 25),
    (arc1, 'demo', True, '', 25),
    (arc2, 'paper', False, 'arc2:training', 1120),
    (arc2, 'paper', True, 'arc2:training', 1120),
  ],
)
def test_the_papers_arc_sets_list_what_leaks(
  tmp_path, monkeypatch, config_file, variant, concept, spec, tasks
):
  """Exactly what leaks, no more and no less."""
  monkeypatch.delenv('CONCEPT_ARC', raising=False)
  if concept:
    corpus = tmp_path / 'corpus' / 'Above'
    corpus.parent.mkdir()
    _write_tasks(corpus, 1, 2)
    monkeypatch.setenv('CONCEPT_ARC', str(corpus.parent))
  config = config_file.get_config(variant)
  assert config.data.train == spec
  config.data.num_aug = 0
  data = build.puzzle_set(builders.settings(config))
  assert len(data.tasks) == tasks
  verdict = build.check_leaks(builders.settings(config), data)
  names = {leak.entry for leak in verdict.answers}
  assert names == set(config.data.known_leaks)


@pytest.mark.parametrize(
  ('config_file', 'held_out', 'scored'), [(arc1, 31, 27), (arc2, 41, 34)]
)
def test_the_demo_scores_all_but_what_leaks(config_file, held_out, scored):
  config = config_file.get_config('demo')
  config.data.num_aug = 0
  settings = builders.settings(config)
  data = build.puzzle_set(settings)
  rows = data.evaluation_rows()
  assert len(rows) == held_out
  outputs = [
    data.evaluation_tasks[group].tests[test].output
    for group, test in zip(rows.group, rows.test, strict=True)
  ]
  assert sum(output is not None for output in outputs) == scored
  assert build.check_leaks(settings, data).answers == []
  # Unscored: exactly what leaks, no more and no less.
  everything = settings.replace({'data.unscored': ()})
  leaking = build.check_leaks(everything, build.puzzle_set(everything))
  places = {
    f'{leak.held_out} {leak.held_out_place}' for leak in leaking.answers
  }
  assert places == set(config.data.unscored)


@pytest.mark.parametrize(
  ('config', 'spec', 'steps'),
  [
    (sudoku.get_config(), 'sudoku_extreme_1k', 26_041),
    (sudoku.get_config('extreme_full'), 'sudoku_extreme_full', None),
    (maze.get_config(), 'maze_30x30_hard_1k', 26_041),
  ],
)
def test_the_papers_question_sets(config, spec, steps):
  assert config.data.train == config.data.evaluate == spec

  class Thousand:
    examples_per_pass = 1000.0

  if steps:
    assert build.total_steps(builders.settings(config), Thousand()) == steps
