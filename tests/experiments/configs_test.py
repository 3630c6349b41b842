"""The configs against the published settings, row by row."""

import math

import jax
import pytest

from experiments.configs import (
  arc1,
  arc2,
  base,
  comparison,
  maze,
  speedrun,
  sudoku,
)
from hrm_jax import build
from hrm_jax.training.state import count_parameters
from tests import builders

ALL = {
  'arc1': (arc1, ('paper', 'demo')),
  'arc2': (arc2, ('paper', 'demo')),
  'sudoku': (
    sudoku,
    ('extreme_1k', 'laptop', 'extreme_full', 'demo', 'full_demo'),
  ),
  'maze': (maze, ('paper', 'demo')),
  'comparison': (comparison, ('6x6',)),
}


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
  folder = tmp_path_factory.getbasetemp() / 'cache'
  monkeypatch.setenv('HRM_JAX_CACHE', str(folder))


class Sizes:
  """What `build.train_setup` asks of puzzles that are not at hand here."""

  def __init__(self, vocab_size, seq_len, examples):
    self.vocab_size, self.seq_len = vocab_size, seq_len
    self.examples_per_pass = examples
    self.num_identifiers = 1


SIZES = {
  'arc1': Sizes(12, 900, 3078.3002),
  'arc2': Sizes(12, 900, 4649.6824),
  'sudoku': Sizes(11, 81, 1000),
  'maze': Sizes(6, 900, 1000),
  'comparison': Sizes(7, 36, 1000),
}


@pytest.mark.parametrize('system', base.SYSTEMS)
@pytest.mark.parametrize(
  'name, preset',
  [(name, preset) for name, (_, presets) in ALL.items() for preset in presets],
)
def test_every_preset_has_every_system(name, preset, system):
  config = ALL[name][0].get_config(f'{preset},{system}')
  setup = build.train_setup(builders.settings(config), SIZES[name])
  assert config.model.kind == system.removesuffix('_mlp')
  assert config.model.get('mlp_t', False) == (system == 'trm_mlp')
  assert (setup.optimizer.ema_decay > 0) == system.startswith(('trm', 'urm'))
  # The words may come in any order, and the usual ones may be left out.
  swapped = ALL[name][0].get_config(f'{system},{preset}')
  assert swapped.to_dict() == config.to_dict()
  if system == 'hrm' and preset == ALL[name][1][0]:
    assert ALL[name][0].get_config().to_dict() == config.to_dict()


@pytest.mark.parametrize(
  'variant', ['big', 'demo,paper', 'hrm,trm', 'demo,demo,trm', 'trm_demo']
)
def test_unknown_words_are_named(variant):
  with pytest.raises(ValueError, match=rf"'{variant}' is unknown.*paper, demo"):
    arc1.get_config(variant)


@pytest.mark.parametrize(
  'config, steps, expected',
  [
    (arc1.get_config(), 400_820, {}),
    (arc2.get_config(), 605_427, {}),
    (
      sudoku.get_config(),
      26_041,
      {
        'epochs': 20_000,
        'optimizer.puzzle_learning_rate': 1e-4,
        'optimizer.weight_decay': 1.0,
        'optimizer.puzzle_weight_decay': 1.0,
      },
    ),
    (
      sudoku.get_config('laptop'),
      52_083,
      {
        'epochs': 20_000,
        'batch_size': 384,
        'optimizer.learning_rate': 7e-5,
        'optimizer.puzzle_learning_rate': 7e-5,
        'optimizer.weight_decay': 1.0,
        'optimizer.puzzle_weight_decay': 1.0,
      },
    ),
    (
      maze.get_config(),
      26_041,
      {
        'epochs': 20_000,
        'data.num_aug': 0,
        'optimizer.puzzle_learning_rate': 1e-4,
        'optimizer.weight_decay': 1.0,
        'optimizer.puzzle_weight_decay': 1.0,
      },
    ),
    (
      sudoku.get_config('extreme_full'),
      None,
      {
        'epochs': 100,
        'batch_size': 2304,
        'data.num_aug': 0,
        'optimizer.learning_rate': 3e-4,
        'optimizer.puzzle_learning_rate': 3e-4,
        'optimizer.min_ratio': 0.1,
        'loss': 'softmax',
        'model.L_cycles': 8,
        'model.pos_encodings': 'learned',
        'act.halt_max_steps': 8,
      },
    ),
    (arc1.get_config('trm'), 400_820, {'model.L_cycles': 4}),
    (arc1.get_config('trm_mlp'), 400_820, {'model.mlp_t': True}),
    (arc2.get_config('trm'), 605_427, {'model.L_cycles': 4}),
    (
      sudoku.get_config('trm_mlp'),
      65_104,
      {
        'epochs': 50_000,
        'model.L_cycles': 6,
        'model.mlp_t': True,
        'model.pos_encodings': 'none',
        'optimizer.puzzle_learning_rate': 1e-4,
        'optimizer.weight_decay': 1.0,
        'optimizer.puzzle_weight_decay': 1.0,
      },
    ),
    (
      sudoku.get_config('trm'),
      65_104,
      {
        'epochs': 50_000,
        'model.L_cycles': 6,
        'optimizer.puzzle_learning_rate': 1e-4,
        'optimizer.weight_decay': 1.0,
        'optimizer.puzzle_weight_decay': 1.0,
      },
    ),
    (arc1.get_config('urm'), 801_640, {'epochs': 200_000}),
    (
      arc2.get_config('urm'),
      1_210_854,
      {'epochs': 200_000, 'optimizer.kind': 'muon'},
    ),
    (
      sudoku.get_config('urm'),
      390_625,
      {
        'batch_size': 128,
        'epochs': 50_000,
        'optimizer.puzzle_learning_rate': 1e-4,
        'optimizer.weight_decay': 1.0,
        'optimizer.puzzle_weight_decay': 1.0,
      },
    ),
    (
      maze.get_config('trm'),
      65_104,
      {
        'epochs': 50_000,
        'data.num_aug': 7,
        'optimizer.puzzle_learning_rate': 1e-4,
        'optimizer.weight_decay': 1.0,
        'optimizer.puzzle_weight_decay': 1.0,
      },
    ),
  ],
)
def test_published_settings(config, steps, expected):
  # spec/model.md, spec/urm.md, "Published settings": what all rows share, then
  # the row.
  settings = {
    'batch_size': 768,
    'epochs': 100_000,
    'total_steps': 0,
    'loss': 'stablemax',
    'data.num_aug': 1000,
    'optimizer.learning_rate': 1e-4,
    'optimizer.puzzle_learning_rate': 1e-2,
    'optimizer.weight_decay': 0.1,
    'optimizer.puzzle_weight_decay': 0.1,
    'optimizer.warmup_steps': 2000,
    'optimizer.min_ratio': 1.0,
    'optimizer.b1': 0.9,
    'optimizer.b2': 0.95,
    'optimizer.ema_decay': 0.0,
    'act.halt_max_steps': 16,
    'act.halt_exploration_prob': 0.1,
    'act.halting': 'q_learning',
    'model.hidden_size': 512,
    'model.num_heads': 8,
    'model.expansion': 4.0,
    'model.puzzle_emb_ndim': 512,
    'model.puzzle_emb_len': 0,
    'model.pos_encodings': 'rope',
    'model.dtype': 'bfloat16',
  }
  if config.model.kind == 'hrm':
    settings |= {
      'model.H_layers': 4,
      'model.L_layers': 4,
      'model.H_cycles': 2,
      'model.L_cycles': 2,
      'model.gradient': 'one_step',
    }
  elif config.model.kind == 'urm':
    settings |= {
      'optimizer.kind': 'adam_atan2',
      'optimizer.first_step': 0,
      'optimizer.ema_decay': 0.999,
      'act.halting': 'halt_only',
      'model.layers': 4,
      'model.mlp': 'conv_swiglu',
      'model.H_cycles': 2,
      'model.L_cycles': 6,
      'model.gradient': 'last_cycle',
    }
  else:
    settings |= {
      'optimizer.ema_decay': 0.999,
      'act.halting': 'halt_only',
      'model.puzzle_emb_len': 16,
      'model.layers': 2,
      'model.mlp_t': False,
      'model.H_cycles': 3,
      'model.L_cycles': 4,
      'model.gradient': 'last_cycle',
    }
  for key, value in (settings | expected).items():
    found = config
    for part in key.split('.'):
      found = found[part]
    assert found == value, key
  if steps:
    data = {'arc1': 'arc1', 'arc2': 'arc2', 'sudoku_extreme_1k': 'sudoku'}
    sizes = SIZES[data.get(config.data.train.split(':')[0], 'maze')]
    assert build.total_steps(builders.settings(config), sizes) == steps
    # As many evaluations as published.
    evaluations = {'urm': 25 if 'sudoku' in config.data.train else 100}
    assert steps // config.evaluate_every == evaluations.get(
      config.model.kind, 10
    )


@pytest.mark.parametrize(
  'name', ['arc1', pytest.param('arc2', marks=pytest.mark.slow)]
)
def test_the_examples_of_arc_are_those_of_its_tasks(name):
  puzzles = build.puzzle_set(ALL[name][0].get_config('paper'))
  expected = SIZES[name].examples_per_pass
  assert math.isclose(puzzles.examples_per_pass, expected, rel_tol=1e-6)


@pytest.mark.parametrize('recipe', ['fastest', 'hrm', 'trm', 'urm', 'direct'])
def test_recipes_run_one_race(recipe):
  config = speedrun.get_config(recipe)
  assert config.data.evaluate == comparison.get_config().data.evaluate
  assert (config.stop_at_score, config.best_metric) == (0.9, 'exact')
  assert config.evaluation.max_puzzles == 0
  assert config.total_steps % config.evaluate_every == 0


def test_the_comparison_is_of_equal_sizes():
  counts = []
  for system in ('hrm', 'direct', 'recurrent_transformer', 'trm', 'urm'):
    config = comparison.get_config(system)
    setup = build.train_setup(builders.settings(config), SIZES['comparison'])
    counts.append(count_parameters(jax.eval_shape(setup.init), 1)['trunk'])
    assert config.data.train == comparison.get_config().data.train
    assert config.total_steps == comparison.get_config().total_steps
    assert config.batch_size == comparison.get_config().batch_size
  assert max(counts) / min(counts) < 1.02
