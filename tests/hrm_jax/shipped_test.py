"""Models that come with the package, and how one is packed."""

import json
import pathlib
import re

import jax
import numpy as np
import pytest

import hrm_jax
from data_pipelines.errors import ConfigError, DataError
from experiments import export
from hrm_jax import shipped
from hrm_jax.solver import load
from tests import builders

_ROOT = pathlib.Path(__file__).parents[2]
_FOLDER = pathlib.Path(shipped.__file__).parent
# What a card says, of one puzzle asked once.
_SCORE = re.compile(r'\| Score \| ([\d.]+) % of the ([\d,]+) held-out puzzles')


@pytest.fixture(params=shipped.names())
def name(request):
  return request.param


def test_there_are_models_and_they_are_small():
  assert 'sudoku-6x6' in shipped.names()
  files = [path for path in _FOLDER.rglob('*') if path.is_file()]
  assert sum(path.stat().st_size for path in files) < 12e6


def test_each_has_a_card(name):
  card = (_FOLDER / name / 'card.md').read_text()
  for field in ('Trained on', 'Command', 'Licence', 'Limits'):
    assert f'\n| {field} | ' in card, field
  assert _SCORE.search(card)


def test_each_is_on_the_page_of_the_site(name):
  path = _ROOT / 'docs' / 'solve' / 'models' / name / 'page.json'
  assert json.loads(path.read_text())['step'] == load(name).step


@pytest.mark.slow
def test_the_score_is_what_the_card_says(name):
  solver = load(name)
  found = solver.evaluate(solver.held_out(1))
  card = (_FOLDER / name / 'card.md').read_text()
  score, puzzles = _SCORE.search(card).groups()
  count = len(found.asked.queries[0].rows)
  assert count == int(puzzles.replace(',', '')) >= 500
  # In whole puzzles: on another machine some sums round otherwise.
  wanted = float(score) / 100 * count
  assert found.metrics['eval/exact'] * count == pytest.approx(wanted, abs=2)


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
  assert before == after
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


def test_of_a_task_the_rows_of_augmentations_are_left_out(
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
  export.pack(tmp_path / 'run', tmp_path / 'packed')
  solver = load(tmp_path / 'packed')
  assert sorted(solver.names) == ['<blank>', 'a', 'b']
  whole = load(tmp_path / 'run')
  rows = np.array([whole.names.index(name) for name in solver.names])
  np.testing.assert_allclose(
    solver.weights(solver.shapes, np.arange(3)).puzzle_table[:3],
    whole.weights(whole.shapes, rows).puzzle_table[:3],
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
