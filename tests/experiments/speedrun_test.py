"""Timing recipes: what is run, kept and told."""

import dataclasses
import json

import pytest

from data_pipelines.errors import ConfigError
from experiments import speedrun

_RECIPE = """
from experiments.configs import sudoku


def get_config(variant=''):
  config = sudoku.get_config('demo,direct')
  config.data.train = 'sudoku:box=2x2:count=20:tests=10'
  config.data.evaluate = config.data.train
  config.data.num_aug = 3
  config.batch_size = config.evaluation.batch_size = 16
  config.total_steps, config.evaluate_every = 6, 2
  config.model.hidden_size, config.model.num_heads = 16, 2
  config.model.layers, config.model.puzzle_emb_ndim = 1, 0
  config.best_metric = 'accuracy'
  config.stop_at_score = float(variant)
  return config
"""


@pytest.fixture
def race(tmp_path, generated, monkeypatch):
  """Calls the command with recipes, seed 3; returns what it keeps."""
  monkeypatch.setenv('HRM_JAX_CACHE', str(generated))
  (tmp_path / 'recipe.py').write_text(_RECIPE)

  def call(*variants):
    recipes = [f'{tmp_path}/recipe.py:{variant}' for variant in variants]
    speedrun.FLAGS.mark_as_parsed()
    for name, value in (
      ('recipe', recipes),
      ('seeds', ['3']),
      ('out', tmp_path / 'out'),
    ):
      monkeypatch.setattr(speedrun.FLAGS[name], 'value', value)
    speedrun.main([])
    return json.loads((tmp_path / 'out/speedrun.json').read_text())

  return call


@pytest.mark.slow
def test_a_recipe_ends_at_its_score_and_is_timed_once(race, capfd):
  """Any answer has some cells right, none has them all."""
  (found,) = race('0.01')
  assert (found['steps'], found['seed'], found['wanted']) == (2, 3, 0.01)
  assert 0.01 <= found['score'] < 1
  assert found['cpu_seconds'] > 0
  # Another one is timed beside it, which never gets there; the first stands.
  first, other = race('0.01', '1.0')
  assert first == found
  assert other['steps'] == 6
  rows = capfd.readouterr().out.splitlines()
  assert any('recipe.py:1.0, not reached |' in row for row in rows)


def test_recipes_without_a_score_or_a_config_are_refused(race):
  with pytest.raises(ConfigError, match='no score to reach; set stop_at_score'):
    race('0')
  with pytest.raises(ConfigError, match=r'recipe\.py:x: could not convert'):
    race('x')


def test_a_record_of_something_else_is_refused(race, tmp_path):
  (tmp_path / 'out').mkdir()
  (tmp_path / 'out/speedrun.json').write_text('[{"seconds": 3}]')
  with pytest.raises(ConfigError, match='not what this command writes'):
    race('0.5')


def test_the_fastest_of_those_that_reach_the_score_comes_first():
  one = speedrun.Timed(
    recipe='a', seed=0, command='', held_out='DATA', metric='exact',
    wanted=0.9, score=0.95, steps=10, seconds=30.0, cpu_seconds=50.0,
    commit=None, machine='',
  )  # fmt: skip
  told = speedrun.report(
    [
      one,
      dataclasses.replace(one, seed=1, seconds=50.0, score=0.9),
      dataclasses.replace(one, recipe='b', seconds=9.0, score=0.89),
      dataclasses.replace(one, recipe='c', seconds=20.0),
      dataclasses.replace(one, recipe='d', held_out='OTHER'),
    ]
  )
  title, _, _, _, *rows = told.split('\n\nexact ≥ 90%, OTHER')[0].splitlines()
  assert title == 'exact ≥ 90%, DATA'
  cells = [[cell.strip() for cell in row.split('|')[1:-1]] for row in rows]
  assert [row[0] for row in cells] == ['c', 'a', 'b, not reached']
  assert cells[1] == ['a', '40', '30, 50', '50', '10, 10', '95.0%, 90.0%']
