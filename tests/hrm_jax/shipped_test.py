"""Models that come with the package, and how one is packed."""

import json
import os
import pathlib
import re
import subprocess
import sys

import jax
import numpy as np
import pytest

import hrm_jax
from data_pipelines.arc.encoding import parse_augmentation_name
from data_pipelines.errors import ConfigError, DataError
from data_pipelines.questions import loading
from experiments import export
from hrm_jax import shipped
from hrm_jax.solver import load
from tests import builders

_ROOT = pathlib.Path(__file__).parents[2]
_FOLDER = pathlib.Path(shipped.__file__).parent
# What a card says: of generated puzzles, each asked once, their SPEC too; of
# ARC, whose tasks are few, test outputs by a vote, and each augmentation asked
# once.
_SCORE = re.compile(
  r'\| Score \| ([\d.]+) % of ([\d,]+) fresh \w+ exact at once, .*?: `(.+?)`'
)
_ARC_SCORE = re.compile(
  r'\| Score \| (\d+) of (\d+) test outputs within two attempts, by a vote '
  r'over (\d+) augmentations.*Of the ([\d,]+) puzzles .* each asked once, '
  r'([\d.]+) % are exact'
)


@pytest.fixture(params=shipped.names())
def name(request):
  return request.param


def _card(name):
  return (_FOLDER / name / 'card.md').read_text()


def test_there_are_models_and_they_are_small():
  assert shipped.names() == ['arc-5x5', 'maze-5x5', 'sudoku-6x6']
  files = [path for path in _FOLDER.rglob('*') if path.is_file()]
  assert sum(path.stat().st_size for path in files) < 12e6


def test_each_has_a_card(name):
  card = _card(name)
  for field in ('Trained on', 'Command', 'Licence', 'Limits'):
    assert f'\n| {field} | ' in card, field
  rule = _SCORE if load(name).domain else _ARC_SCORE
  assert rule.search(card)


def test_each_is_on_the_page_of_the_site(name):
  path = _ROOT / 'docs' / 'solve' / 'models' / name / 'page.json'
  assert json.loads(path.read_text())['step'] == load(name).step


def _scored(name, spec):
  """The metrics of an evaluation, and its number of rows."""
  program = (
    'import hrm_jax, json, sys; name, spec = sys.argv[1:];'
    'found = hrm_jax.load(name).evaluate(spec or None);'
    'print(json.dumps([found.metrics, found.facts["rows"]]))'
  )
  # In a process of its own: with the tests' flags of XLA it takes minutes.
  environment = {k: v for k, v in os.environ.items() if k != 'XLA_FLAGS'}
  done = subprocess.run(
    [sys.executable, '-c', program, name, spec],
    capture_output=True, text=True, check=True, env=environment,
  )  # fmt: skip
  return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_the_score_is_what_the_card_says(name):
  if load(name).domain is None:
    *voted, puzzles, score = _ARC_SCORE.search(_card(name)).groups()
    solved, count, augmentations = map(int, voted)
    # Rows that are not scored count among those of the evaluation.
    (metrics, _), rows = _scored(name, ''), count * augmentations
    right = metrics['eval/pass@2/outputs'] * count
    assert right == pytest.approx(round(right), abs=1e-6)
    assert right == pytest.approx(solved, abs=1)
  else:
    score, puzzles, spec = _SCORE.search(_card(name)).groups()
    metrics, rows = _scored(name, spec)
  assert rows == int(puzzles.replace(',', '')) >= 500
  # In whole puzzles: on another machine some sums round otherwise.
  wanted = float(score) / 100 * rows
  assert metrics['eval/exact'] * rows == pytest.approx(wanted, abs=2)


@pytest.mark.slow
@pytest.mark.parametrize('role', ['train', 'test'])
def test_no_fresh_puzzle_was_seen_before(name, role):
  solver = load(name)
  if solver.domain is None:
    return
  data = solver.settings.data
  spec = _SCORE.search(_card(name)).group(3)
  seen = loading.load_questions(data.train, role, data.seed)
  fresh = loading.load_questions(spec, 'test', 0)
  signatures = solver.domain.signatures
  assert not np.isin(
    signatures(fresh.questions), signatures(seen.questions)
  ).any()


def test_the_first_lines_of_the_readme_need_no_training(tmp_path, monkeypatch):
  (first, *_) = re.findall(
    r'```python\n(.*?)```', (_ROOT / 'README.md').read_text(), re.S
  )
  monkeypatch.chdir(tmp_path)
  space: dict = {}
  exec(first, space)
  assert space['answer'].valid == (True,)
  assert (tmp_path / 'thought.gif').stat().st_size > 1000


def test_a_run_is_packed_and_found_by_its_path(tiny_config, tmp_path, capsys):
  builders.train(tiny_config, tmp_path / 'run')
  before, after = export.pack(tmp_path / 'run', tmp_path / 'packed')
  assert before.metrics == after.metrics
  assert 'of 10 held-out inputs' in capsys.readouterr().out
  solvers = [load(tmp_path / folder) for folder in ('run', 'packed')]
  rows = np.arange(len(solvers[0].names))
  wanted, found = (one.weights(one.shapes, rows) for one in solvers)
  # Float16 has eleven bits.
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=2**-11, atol=1e-7),
    wanted, found,
  )  # fmt: skip
  assert solvers[0].settings == solvers[1].settings
  assert solvers[0].names == solvers[1].names
  assert solvers[0].trained_on == solvers[1].trained_on
  path = tmp_path / 'packed' / 'weights.safetensors'
  path.write_bytes(path.read_bytes()[:-10])
  with pytest.raises(DataError, match=r'weights\.safetensors: damaged'):
    load(tmp_path / 'packed')


@pytest.mark.slow
def test_of_a_task_so_many_augmentations_are_packed_as_are_asked_for(
  tiny_arc_config, tmp_path
):
  rng = np.random.default_rng(0)
  (tmp_path / 'tasks').mkdir()
  for name in 'ab':
    train, test = (
      {side: rng.integers(0, 10, (2, 3)).tolist() for side in sides}
      for sides in 2 * [('input', 'output')]
    )
    text = json.dumps({'train': [train], 'test': [test]})
    (tmp_path / 'tasks' / f'{name}.json').write_text(text)
  config = tiny_arc_config(tmp_path / 'tasks')
  config.total_steps = config.checkpoint_every = 1
  config.evaluate_every = 0
  builders.train(config, tmp_path / 'run')
  whole = load(tmp_path / 'run')
  for most, count in ((2, 2), (0, 1 + config.data.num_aug)):
    folder = tmp_path / f'packed_{most}'
    _, after = export.pack(tmp_path / 'run', folder, augmentations=most)
    assert set(after.cast.values()) == {count}
    solver = load(folder)
    tasks = [parse_augmentation_name(name)[0] for name in solver.names]
    assert [tasks.count(name) for name in 'ab'] == [count, count]
    assert {'<blank>', 'a', 'b'} <= {*solver.names}
    rows = np.array([whole.names.index(name) for name in solver.names])
    every = np.arange(len(rows))
    np.testing.assert_allclose(
      solver.weights(solver.shapes, every).puzzle_table[: len(rows)],
      whole.weights(whole.shapes, rows).puzzle_table[: len(rows)],
      rtol=2**-11, atol=1e-7,
    )  # fmt: skip


def test_weights_beyond_float16_are_refused(tmp_path):
  with pytest.raises(ConfigError, match='params/x: has weights beyond'):
    shipped.write(
      tmp_path, {}, 1, 'data', [], np.zeros((0, 0)),
      {'params': {'x': np.float32([1e6])}},
    )  # fmt: skip


def test_a_name_that_is_none_tells_those_there_are(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(
    ConfigError, match=r'come with the package are .*sudoku-6'
  ):
    hrm_jax.load('sudoku-7x7')
  # A run of that name comes first.
  (tmp_path / 'sudoku-6x6').mkdir()
  with pytest.raises(ConfigError, match=r'no config\.json'):
    hrm_jax.load('sudoku-6x6')
