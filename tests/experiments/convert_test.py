"""Published checkpoints in and out, and what is said of those that do not fit.

The published names and shapes are written down here by hand; golden files of
the published code itself are converted too.
"""

import json
import os
import pathlib
import pickle
import sys
import zipfile

import jax
import ml_dtypes
import numpy as np
import pytest
import yaml
from absl.testing import flagsaver

from data_pipelines import files
from data_pipelines.errors import ConfigError, DataError
from data_pipelines.puzzles import load_puzzles
from experiments import convert, evaluate
from experiments.cli import command as cli
from experiments.configs import arc1, sudoku
from experiments.reporting import comparison, runs
from hrm_jax import build
from hrm_jax.parallel import sharding
from hrm_jax.published import convert as published
from hrm_jax.published import state_dicts
from hrm_jax.published.convert import write
from hrm_jax.training.state import abstract_weights
from hrm_jax.workdir import checkpoints
from hrm_jax.workdir import config as workdir_config
from tests import builders, torch_files

pytestmark = pytest.mark.slow

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden'
D, BLOCKS, ROWS = 16, 2, 5
PREFIXES = ('', 'model.', '_orig_mod.', '_orig_mod.model.')
TABLE = 'inner.puzzle_emb.weights'
ROW_NAMES = ['<blank>', 'b_t1_0234567891', 'b', 'c|||t0|||0987654321', 'c']


@pytest.fixture(scope='module', autouse=True)
def cache(tmp_path_factory):
  """Generated puzzles are kept there."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('HRM_JAX_CACHE', str(tmp_path_factory.mktemp('cache')))
    yield


def _sudoku(system, **changes):
  config = sudoku.get_config(f'demo,{system}')
  config.data.train = 'sudoku:box=2x2:count=20:tests=10'
  config.data.evaluate = config.data.train
  with config.unlocked():
    config.update_from_flattened_dict(changes)
  return config


def _arc(system, **changes):
  """Tiny, on the 25 tasks of the demo."""
  config = arc1.get_config(f'demo,{system}')
  config.data.num_aug = 3
  config.batch_size = 16
  config.total_steps = 3
  config.model.hidden_size = D
  config.model.num_heads = 2
  config.model.expansion = 1.0
  config.model.puzzle_emb_ndim = 2 * D
  config.model.H_cycles = config.model.L_cycles = 1
  config.optimizer.warmup_steps = 0
  config.evaluation.batch_size = 128
  with config.unlocked():
    config.update_from_flattened_dict(changes)
  return config


@pytest.fixture(scope='module')
def sizes(cache):
  """V and S of the Sudokus."""
  puzzles = build.puzzle_set(builders.settings(_sudoku('hrm')))
  return puzzles.vocab_size, puzzles.seq_len


def _random(rng, shape, dtype):
  array = rng.standard_normal(shape).astype(dtype)
  # What arithmetic, or a way through another type, could lose.
  array.flat[:4] = -0.0, np.inf, np.finfo(np.float32).tiny / 4, 1 + 2**-7
  return array


def _published(
  sizes,
  kind='hrm',
  dtype=np.float32,
  initial_dtype=None,
  rows=1,
  ndim=D,
  tokens=None,
  mlp_t=False,
):
  """Random tensors under published names; `tokens` has a table of positions."""
  V, F = sizes[0], 256
  shapes = {
    'inner.embed_tokens.embedding_weight': (V, D),
    'inner.lm_head.weight': (V, D),
    'inner.q_head.weight': (2, D),
    'inner.q_head.bias': (2,),
  }
  if tokens:
    shapes['inner.embed_pos.embedding_weight'] = (tokens, D)
  if ndim:
    shapes[TABLE] = (rows, ndim)
  levels = {'hrm': ('H_level.', 'L_level.'), 'trm': ('L_level.',), 'urm': ('',)}
  filters = {}
  for level in levels[kind]:
    for block in range(BLOCKS):
      layer = f'inner.{level}layers.{block}'
      if kind == 'urm':
        filters[f'{layer}.mlp.dwconv.weight'] = (F, 1, 2)
        filters[f'{layer}.mlp.dwconv.bias'] = (F,)
      if mlp_t:
        T = mlp_t
        shapes[f'{layer}.mlp_t.gate_up_proj.weight'] = (2 * F, T)
        shapes[f'{layer}.mlp_t.down_proj.weight'] = (T, F)
      else:
        shapes[f'{layer}.self_attn.qkv_proj.weight'] = (3 * D, D)
        shapes[f'{layer}.self_attn.o_proj.weight'] = (D, D)
      shapes[f'{layer}.mlp.gate_up_proj.weight'] = (2 * F, D)
      shapes[f'{layer}.mlp.down_proj.weight'] = (D, F)
  rng = np.random.default_rng(0)
  arrays = {name: _random(rng, shape, dtype) for name, shape in shapes.items()}
  # As published, whatever the others are.
  for name, shape in filters.items():
    arrays[name] = _random(rng, shape, BF16)
  for name in ('init_hidden',) if kind == 'urm' else ('H_init', 'L_init'):
    arrays[f'inner.{name}'] = _random(rng, (D,), initial_dtype or dtype)
  return arrays


def _all_config(kind='hrm', **arch):
  """As the published training writes it, of a run unlike our presets."""
  sizes = {'H_layers': BLOCKS if kind == 'hrm' else 0, 'L_layers': BLOCKS}
  sizes['halt_max_steps'] = 7
  if kind == 'urm':
    sizes = {'num_layers': BLOCKS, 'loops': 7}
  return {
    'arch': {
      'name': 'hrm.hrm_act_v1@HierarchicalReasoningModel_ACTV1',
      'loss': {
        'name': 'losses@ACTLossHead',
        'loss_type': 'stablemax_cross_entropy',
      },
      'H_cycles': 3,
      'L_cycles': 5,
      **sizes,
      'hidden_size': D,
      'num_heads': 8,
      'expansion': 4,
      'halt_exploration_prob': 0.2,
      'pos_encodings': 'rope',
      'puzzle_emb_ndim': D,
      **arch,
    },
    'data_path': 'data/sudoku',
    'global_batch_size': 96,
    'epochs': 1234,
    'lr': 0.0003,
    'lr_min_ratio': 1,
    'lr_warmup_steps': 77,
    'weight_decay': 1,
    'beta1': 0.8,
    'beta2': 0.9,
    'puzzle_emb_lr': 0.02,
    'puzzle_emb_weight_decay': 0.5,
    'seed': 6,
    'checkpoint_every_eval': True,
    'eval_interval': None,
  }


def _write(path, arrays, prefix='', names=None, all_config=None):
  """A directory of somebody else's run."""
  path.parent.mkdir(exist_ok=True)
  torch_files.write(path, {prefix + k: v for k, v in arrays.items()})
  if names is not None:
    (path.parent / 'identifiers.json').write_text(json.dumps(names))
  if all_config is not None:
    (path.parent / 'all_config.yaml').write_text(yaml.dump(all_config))
  return path


def _assert_bitwise(found, expected):
  assert found.keys() == expected.keys()
  for name, array in expected.items():
    assert found[name].dtype == array.dtype, name
    assert found[name].shape == array.shape, name
    assert found[name].tobytes() == array.tobytes(), name


def _bare(path):
  """What was written, in the one prefix that we write."""
  arrays = state_dicts.read(path)
  assert all(name.startswith(PREFIXES[-1]) for name in arrays)
  return {name[len(PREFIXES[-1]) :]: array for name, array in arrays.items()}


def _restored(workdir):
  """Weights and table of a checkpoint, without its sharding."""
  config, _ = workdir_config.read(workdir)
  saved = checkpoints.Checkpoints(workdir)
  step = saved.find()
  position = saved.position(step)
  puzzles = build.shapes(config)
  model = build.model(config.model, puzzles.vocab_size, puzzles.seq_len)
  mesh = sharding.make_mesh(jax.devices()[:1])
  variables, table = saved.restore_weights(
    step, abstract_weights(model, len(position.identifier_names), mesh)
  )
  saved.close()
  return jax.tree.map(np.asarray, variables), np.asarray(table), position


def _snapshot(directory):
  return {
    path: path.read_bytes() if path.is_file() else None
    for path in directory.rglob('*')
  }


def _refused(tmp_path, message, function, *arguments, error=ConfigError):
  """One line, and nothing written."""
  before = _snapshot(tmp_path)
  with pytest.raises(error, match=message) as caught:
    function(*arguments)
  assert '\n' not in str(caught.value)
  assert _snapshot(tmp_path) == before
  return str(caught.value)


BF16 = ml_dtypes.bfloat16
# System; how the tensors are; what all_config.yaml says besides, or None for
# no such file; prefix, format.
CASES = {
  'hrm': ('hrm', {}, {}, 0, 'pt'),
  'hrm, table of several rows': (
    *('hrm', {'rows': ROWS}, {}, 1, 'safetensors'),
  ),
  'hrm, bfloat16': (*('hrm', {'rows': ROWS, 'dtype': BF16}, {}, 2, 'pt'),),
  'hrm, bfloat16 states': (
    *('hrm', {'initial_dtype': BF16}, None, 3, 'safetensors'),
  ),
  'hrm, bfloat16 weights of float32 states': (
    *('hrm', {'dtype': BF16, 'initial_dtype': np.float32}, None),
    *(0, 'safetensors'),
  ),
  'hrm, learned positions, two prefix tokens': (
    *('hrm', {'tokens': 2, 'ndim': D + 3}),
    *({'pos_encodings': 'learned', 'puzzle_emb_ndim': D + 3}, 1, 'pt'),
  ),
  'hrm, learned positions, told by nothing else': (
    *('hrm', {'tokens': 4, 'ndim': 4 * D, 'dtype': BF16}, None, 2, 'pt'),
  ),
  'hrm, no puzzle embedding': (
    *('hrm', {'ndim': 0}, {'puzzle_emb_ndim': 0}, 3, 'pt'),
  ),
  'trm': (*('trm', {'rows': ROWS}, {'puzzle_emb_len': 3}, 2, 'pt'),),
  'trm, bfloat16': (
    *('trm', {'dtype': BF16}, {'forward_dtype': 'bfloat16'}, 3, 'pt'),
  ),
  'trm, MLP': (
    *('trm_mlp', {'mlp_t': 5}),
    {'mlp_t': True, 'puzzle_emb_len': 5, 'pos_encodings': 'none'},
    *(0, 'safetensors'),
  ),
  'trm, MLP, told by nothing else, bfloat16': (
    *('trm', {'mlp_t': 16, 'dtype': BF16}, None, 3, 'pt'),
  ),
  'urm': (*('urm', {'rows': ROWS}, {}, 3, 'pt'),),
  'urm, bfloat16, told by nothing else': (
    *('urm', {'dtype': BF16}, None, 2, 'safetensors'),
  ),
  'trm, MLP, no puzzle embedding': (
    *('trm', {'mlp_t': 0, 'ndim': 0}, None, 0, 'pt'),
  ),
}


@pytest.mark.parametrize('case', CASES)
def test_there_and_back_is_equal_to_the_bit(case, sizes, tmp_path):
  system, tensors, told, prefix, suffix = CASES[case]
  kind = system.partition('_')[0]
  tensors = dict(tensors)
  # Given as prefix tokens.
  for key in ('tokens', 'mlp_t'):
    if key in tensors:
      tensors[key] += sizes[1]
  arrays = _published(sizes, kind, **tensors)
  settings = None if told is None else _all_config(kind, **told)
  path = _write(
    tmp_path / 'theirs' / f'step_31.{suffix}',
    arrays,
    PREFIXES[prefix],
    ROW_NAMES if tensors.get('rows') == ROWS else None,
    settings,
  )
  workdir, out = tmp_path / 'run', tmp_path / 'out' / 'x.safetensors'
  config = _sudoku(system)
  if told is None and 'mlp_t' in tensors:
    # The tokens must be the cells and what the config says of the prefix.
    config.model.puzzle_emb_len = tensors['mlp_t'] - sizes[1]
  convert.make_run(path, config, workdir)
  dtype = np.dtype(tensors.get('dtype', np.float32)).name
  write(workdir, out, None, dtype)
  _assert_bitwise(_bare(out), arrays)

  assert checkpoints.Checkpoints(workdir).steps() == [31]
  if tensors.get('rows') == ROWS:
    separator = '_' if kind == 'hrm' else '|||'
    expected = [
      name.replace('|||', '_').replace('_', separator) for name in ROW_NAMES
    ]
    names = json.loads((out.parent / 'identifiers.json').read_text())
    assert names == expected
  if settings is not None:
    again = yaml.safe_load((out.parent / 'all_config.yaml').read_text())
    loss, arch = settings['arch'].pop('loss'), settings.pop('arch')
    assert again['arch'].pop('loss') == loss
    del arch['name']
    assert arch.items() <= again.pop('arch').items()
    for key in ('data_path', 'checkpoint_every_eval', 'eval_interval'):
      del settings[key]
    assert settings.items() <= again.items()


@pytest.mark.parametrize('name', ['hrm_rope', 'trm_att', 'urm_base'])
def test_tensors_of_the_published_code_there_and_back(name, tmp_path):
  """Those golden ones whose cells and tokens some tasks have."""
  with np.load(GOLDEN / f'{name}.npz') as file:
    arrays = {
      key.removeprefix('param/'): file[key]
      for key in file
      if key.startswith('param/')
    }
    arch = json.loads(str(file['config']))['arch']
  arch['loss'] = {'loss_type': 'softmax_cross_entropy'}
  config = _arc(name.partition('_')[0], **{'data.canvas': 3})
  names = ['<blank>', *(f'task{row}' for row in range(2, len(arrays[TABLE])))]
  # A task of the demo's.
  names.append('0d3d703e')
  path = _write(tmp_path / 'theirs' / 'x.pt', arrays, '', names, {'arch': arch})
  report = convert.make_run(path, config, tmp_path / 'run')
  assert '5 rows of 5 puzzles that the data lack: task2, task3' in report
  write(tmp_path / 'run', tmp_path / 'out' / 'x.safetensors')
  _assert_bitwise(_bare(tmp_path / 'out' / 'x.safetensors'), arrays)


def test_a_blank_row_alone_is_no_row_of_the_data(cache, tmp_path):
  """Every table has one; of ARC's tasks none is predicted with it."""
  puzzles = load_puzzles('', 'arc1:training', 5, 0, 0)
  names = ['<blank>', 'a', 'b_t1_0234567891']
  path = _write(
    tmp_path / 'theirs' / 'x.pt',
    _published((puzzles.vocab_size, 25), rows=3),
    '',
    names,
    _all_config(seq_len=25),
  )
  message = r'no row .* is of a puzzle in the data \(a, b\); name the --config'
  run = tmp_path / 'run'
  _refused(tmp_path, message, convert.make_run, path, _arc('hrm'), run)


@pytest.mark.parametrize('told', [True, False])
def test_a_checkpoint_is_read_without_settings_and_puzzles(told, tmp_path):
  """Its cells are those of its file, or of the published set of its tokens."""
  arrays = _published((11, 81), tokens=81 + 1)
  settings = _all_config(pos_encodings='learned', seq_len=81)
  path = _write(
    tmp_path / 'step_31.pt', arrays, all_config=settings if told else None
  )
  found = published.read(path)
  assert (found.vocab_size, found.seq_len, found.step) == (11, 81, 31)
  assert found.settings.model.hidden_size == D
  assert found.settings.model.num_heads == 8
  assert found.settings.model.H_cycles == (3 if told else 2)
  assert found.identifier_names == ['<blank>']
  np.testing.assert_array_equal(found.puzzle_table, arrays[TABLE])
  ours = found.variables['params']['q_head']['bias']
  np.testing.assert_array_equal(ours, arrays['inner.q_head.bias'])


def test_a_checkpoint_whose_cells_nothing_tells(tmp_path):
  path = _write(tmp_path / 'x.pt', _published((13, 0)))
  _refused(tmp_path, 'nothing tells how many cells', published.read, path)


# Our runs, out and in again.


@pytest.fixture(scope='module', params=['hrm', 'trm'])
def run(request, cache, tmp_path_factory):
  """TRM, trained with an average that lags behind, or HRM as it starts.

  Both are scored.
  """
  workdir = tmp_path_factory.mktemp(request.param) / 'run'
  if request.param == 'trm':
    config = _arc('trm', **{'optimizer.ema_decay': 0.9, 'model.layers': 1})
    state = builders.train(config, workdir)
  else:
    changes = {'model.dtype': 'bfloat16', 'model.H_layers': 1}
    state = _untrained(_arc('hrm', **changes), workdir)
  evaluate.run(workdir)
  return request.param, workdir, jax.tree.map(np.asarray, state)


def _untrained(config, workdir):
  """A run whose checkpoint was never trained: steps take long to compile."""
  settings = builders.settings(config)
  puzzles = build.puzzle_set(settings)
  state = jax.jit(build.train_setup(settings, puzzles).init)()
  rng = np.random.default_rng(0)
  table = rng.standard_normal(state.puzzle_table.shape, np.float32)
  state = state.replace(puzzle_table=table, step=np.int32(3))
  leaking = build.check_leaks(settings, puzzles)
  workdir_config.claim(workdir, settings, puzzles, leaking)
  saved = checkpoints.Checkpoints(workdir, settings)
  names = puzzles.identifier_names()
  saved.save(state, checkpoints.Position(3, names, puzzles.version))
  saved.close()
  return state


def _predictions(workdir, step):
  directory = workdir / 'evaluation' / f'step_{step}'
  return {
    path.name: path.read_bytes()
    for path in directory.iterdir()
    if path.name in ('predictions.json', 'submission.json')
  }


def test_a_run_of_ours_out_and_in_again(run, tmp_path):
  kind, workdir, state = run
  out = tmp_path / 'out' / 'step_3.safetensors'
  write(workdir, out)
  # The config names the data alone: of the model it says other things.
  config = arc1.get_config(f'demo,{kind}')
  config.data.num_aug = 3
  again = tmp_path / 'again'
  convert.make_run(out, config, again)

  variables, table, position = _restored(workdir)
  back, back_table, back_position = _restored(again)
  jax.tree.map(np.testing.assert_array_equal, back, variables)
  assert jax.tree.map(lambda x: x.dtype, back) == jax.tree.map(
    lambda x: x.dtype, variables
  )
  np.testing.assert_array_equal(back_table, table)
  assert np.abs(table).max() > 0
  assert back_position.identifier_names == position.identifier_names
  before, after = (workdir_config.read(path)[0] for path in (workdir, again))
  assert after.model == before.model
  assert after.act == before.act
  assert after.optimizer == before.optimizer
  assert (after.loss, after.seed) == (before.loss, before.seed)

  evaluate.run(again)
  found = _predictions(again, 3)
  assert len(found) == 2
  assert found == _predictions(workdir, 3)
  message = 'holds weights alone .* evaluated, not trained on'
  with pytest.raises(ConfigError, match=message) as error:
    builders.train(after, again)
  assert '\n' not in str(error.value)

  # What predicts was written, not what was trained last.
  predicting = state.params if state.ema is None else state.ema
  written = _bare(out)['inner.q_head.bias']
  np.testing.assert_array_equal(written, predicting['q_head']['bias'])
  trained = state.params['q_head']['bias']
  assert np.array_equal(written, trained) == (state.ema is None)


@pytest.mark.parametrize('run', ['trm'], indirect=True)
def test_names_decide_whatever_their_order_and_form(run, tmp_path):
  kind, workdir, _ = run
  first = tmp_path / 'first' / 'x.safetensors'
  write(workdir, first)
  arrays = _bare(first)
  names = json.loads((first.parent / 'identifiers.json').read_text())
  # Some augmentations fewer, rows of other tasks more, all in another order.
  rng = np.random.default_rng(0)
  dropped = [name for name in names if '|||' in name][::4]
  rows = [row for row, name in enumerate(names) if name not in dropped]
  foreign = ['ffffffff', 'ffffffff_t2_0213456789', 'eeeeeeee']
  table = np.concatenate([arrays[TABLE][rows], np.ones((3, 2 * D), np.float32)])
  order = rng.permutation(len(table))
  kept = [names[row] for row in rows]
  # Half of them in the other form.
  kept = [
    name.replace('|||', '_') if row % 2 else name
    for row, name in enumerate(kept)
  ]
  shuffled = [[*kept, *foreign][row] for row in order]
  path = _write(
    tmp_path / 'shuffled' / 'x.pt',
    arrays | {TABLE: table[order]},
    'model.',
    shuffled,
    yaml.safe_load((first.parent / 'all_config.yaml').read_text()),
  )
  config = arc1.get_config(f'demo,{kind}')
  config.data.num_aug = 50
  again = tmp_path / 'again'
  report = convert.make_run(path, config, again)
  assert report == (
    f'Puzzle table: {len(table)} rows, {len(kept)} of puzzles that are in the '
    'data\n  3 rows of 2 puzzles that the data lack: eeeeeeee, ffffffff'
  )
  config, _ = workdir_config.read(again)
  _, found, position = _restored(again)
  judge = evaluate.run(again)

  with pytest.raises(ConfigError) as error:
    builders.train(config, again)
  assert '\n' not in str(error.value)
  saved = dict(zip(position.identifier_names, found, strict=True))
  for name, row in zip(shuffled, table[order], strict=True):
    np.testing.assert_array_equal(saved[name.replace('|||', '_')], row)
  # Exactly the augmentations that are named are predicted, none drawn.
  scored = json.loads(
    (again / 'evaluation' / 'step_0' / 'scores.json').read_text()
  )
  tests = {
    task.name: len(task.tests)
    for task in build.puzzle_set(config).evaluation_tasks
  }
  expected = sum(tests.get(name[:8], 0) for name in kept)
  assert scored['rows'] == expected
  before = json.loads(
    (workdir / 'evaluation' / 'step_3' / 'scores.json').read_text()
  )
  assert expected < before['rows']
  # And what they predict is what they predicted: fewer votes, none new.
  predictions = json.loads(
    (workdir / 'evaluation' / 'step_3' / 'predictions.json').read_text()
  )
  same = [len(names) for names in judge.candidates.values()]
  assert sum(same) > 0
  for (task, test), candidates in judge.candidates.items():
    votes = {str(c['grid']): c['votes'] for c in predictions[task][test]}
    for candidate in candidates[:2]:
      assert candidate.votes <= votes[str(candidate.grid.tolist())]


@pytest.mark.parametrize('run', ['trm'], indirect=True)
def test_tasks_without_a_row(run, tmp_path):
  kind, workdir, _ = run
  first = tmp_path / 'first' / 'x.safetensors'
  write(workdir, first)
  names = tmp_path / 'first' / 'identifiers.json'
  text = names.read_text()
  task = json.loads(text)[1]
  names.write_text(text.replace(task, 'renamed'))
  config = arc1.get_config(f'demo,{kind}')
  report = convert.make_run(first, config, tmp_path / 'again')
  assert report.splitlines()[1:] == [
    '  4 rows of 1 puzzles that the data lack: renamed',
    f'  1 puzzles of the data have no row, and cannot be predicted: {task}',
  ]
  with pytest.raises((ConfigError, DataError), match=task) as error:
    evaluate.run(tmp_path / 'again')
  assert '\n' not in str(error.value)
  assert not (tmp_path / 'again' / 'evaluation').exists()


def test_names_without_a_table_tell_the_augmentations(cache, tmp_path):
  """A model of ARC without puzzle embeddings sees augmented inputs alone."""
  names = ['<blank>', 'a', 'a|||t1|||0123456798']
  puzzles = load_puzzles('', 'arc1:training', 5, 2, 0)
  names += puzzles.identifier_names()[1:]
  sizes = puzzles.vocab_size, puzzles.seq_len
  path = _write(
    tmp_path / 'theirs' / 'x.pt',
    _published(sizes, ndim=0),
    '',
    names,
    _all_config(puzzle_emb_ndim=0, seq_len=25),
  )
  config = _arc('hrm', **{'data.num_aug': 50})
  convert.make_run(path, config, tmp_path / 'run')
  write(tmp_path / 'run', tmp_path / 'out' / 'x.safetensors')
  _assert_bitwise(
    _bare(tmp_path / 'out' / 'x.safetensors'), _published(sizes, ndim=0)
  )
  config = arc1.get_config('demo')
  convert.make_run(
    tmp_path / 'out' / 'x.safetensors', config, tmp_path / 'again'
  )
  found = checkpoints.Checkpoints(tmp_path / 'again').position(0)
  assert found.identifier_names == [n.replace('|||', '_') for n in names]
  again = build.puzzle_set(builders.settings(config), found.identifier_names)
  rows = again.evaluation_rows()
  expected = puzzles.evaluation_rows()
  assert len(rows) == len(expected) < 51 * 31


# The run's settings.


def test_settings_of_the_run_are_those_of_its_file(sizes, tmp_path):
  told = _all_config('trm', mlp_t=False, puzzle_emb_len=3)
  told |= {'ema': True, 'ema_rate': 0.98}
  told['arch']['no_ACT_continue'] = True
  # As somebody writes it by hand.
  text = yaml.dump(told).replace('lr: 0.0003', 'lr: 3e-4')
  path = _write(tmp_path / 'theirs' / 'x.pt', _published(sizes, 'trm'))
  elsewhere = tmp_path / 'elsewhere.yaml'
  elsewhere.write_text(text)
  for all_config in (None, elsewhere):
    workdir = tmp_path / f'run_{all_config is None}'
    if all_config is None:
      (path.parent / 'all_config.yaml').write_text(text)
    convert.make_run(path, _sudoku('trm'), workdir, all_config_path=all_config)
    config, _ = workdir_config.read(workdir)
    assert config.to_dict()['model'] == dict(
      kind='trm',
      hidden_size=D,
      num_heads=8,
      expansion=4.0,
      mlp='swiglu',
      filter_dtype='float32',
      puzzle_emb_ndim=D,
      puzzle_emb_len=3,
      pos_encodings='rope',
      H_cycles=3,
      L_cycles=5,
      layers=BLOCKS,
      mlp_t=False,
      dtype='float32',
      gradient='last_cycle',
      attention='auto',
      fusion='block',
    )
    assert config.to_dict()['act'] == {
      'halt_max_steps': 7,
      'halt_exploration_prob': 0.2,
      'halting': 'halt_only',
    }
    assert config.to_dict()['optimizer'] == dict(
      kind='adam_atan2',
      learning_rate=3e-4,
      weight_decay=1.0,
      b1=0.8,
      b2=0.9,
      puzzle_learning_rate=0.02,
      puzzle_weight_decay=0.5,
      warmup_steps=77,
      first_step=1,
      min_ratio=1.0,
      ema_decay=0.98,
      rows_first=0.0,
    )
    assert config.loss == 'stablemax'
    assert (config.batch_size, config.epochs, config.seed) == (96, 1234, 6)
  evaluate.run(workdir, batch_size=8, max_puzzles=8)


def test_what_no_file_tells_is_taken_from_the_config_and_said(
  sizes, tmp_path, caplog
):
  path = _write(tmp_path / 'theirs' / 'x.pt', _published(sizes, 'trm'))
  config = _sudoku('trm', **{'model.puzzle_emb_len': 6, 'model.num_heads': 2})
  convert.make_run(path, config, tmp_path / 'run')
  assert (
    'Settings of the model that no file tells, taken as given: num_heads=2, '
    "H_cycles=2, L_cycles=2, puzzle_emb_len=6, pos_encodings='rope'"
  ) in caplog.text
  found, _ = workdir_config.read(tmp_path / 'run')
  assert (found.model.num_heads, found.model.puzzle_emb_len) == (2, 6)
  # No more is said than is so.
  caplog.clear()
  tensors = _published(sizes, tokens=sizes[1] + 1)
  path = _write(tmp_path / 'others' / 'x.pt', tensors)
  convert.make_run(path, _sudoku('hrm'), tmp_path / 'run_2')
  assert 'num_heads=4, H_cycles=2, L_cycles=2\n' in caplog.text


def test_cells_of_another_size_are_noticed(cache, sizes, tmp_path):
  """Rotary positions fit any canvas: nothing else would tell."""
  puzzles = load_puzzles('', 'arc1:training', 5, 2, 0)
  names = puzzles.identifier_names()
  arrays = _published((puzzles.vocab_size, 25), rows=len(names))
  target = tmp_path / 'run'

  def refused(name, told, pattern, **settings):
    path = _write(tmp_path / name / 'x.pt', arrays, '', names, told)
    with pytest.raises(ConfigError, match=pattern):
      convert.make_run(path, _arc('hrm', **settings), target)
    assert not target.exists()

  refused('published', _all_config(), r'30 × 30; set .*seq_len: 25')
  told = _all_config(seq_len=25)
  refused('ours', told, 'of 25 cells .* of 36;', **{'data.canvas': 6})
  # An MLP over the tokens has their number.
  arrays = _published(sizes, 'trm', mlp_t=sizes[1] + 7)
  path = _write(tmp_path / 'mixer' / 'x.pt', arrays)
  with pytest.raises(ConfigError, match=f'for {sizes[1] + 7} tokens'):
    convert.make_run(path, _sudoku('trm_mlp'), target)
  assert not target.exists()


def test_what_it_was_trained_on_is_not_known(sizes, tmp_path, capsys):
  path = _write(tmp_path / 'theirs' / 'x.pt', _published(sizes))
  convert.make_run(path, _sudoku('hrm'), tmp_path / 'run')
  evaluate.run(tmp_path / 'run')
  assert 'trained on is not known' in capsys.readouterr().out
  (measured,) = comparison.measure(runs.read_all([str(tmp_path / 'run')]))
  assert measured.benchmark is None
  assert '| not known' in comparison.report([measured])


def _changed(**changes):
  return lambda told: told | changes


def _changed_arch(**changes):
  return lambda told: told | {'arch': told['arch'] | changes}


def _without(key):
  return lambda told: {
    **told,
    'arch': {k: v for k, v in told['arch'].items() if k != key},
  }


@pytest.mark.parametrize(
  'change, message',
  [
    (
      _changed_arch(hidden_size=32, H_layers=3, num_heads=4),
      r'hidden_size \(32 there, 16 by the tensors\), H_layers \(3 there, 2 by ',
    ),
    (_changed_arch(expansion=40), r'expansion \(40.0 there, .* by the tensors'),
    (_changed_arch(puzzle_emb_ndim=0), r'puzzle_emb_ndim \(0 there, 16 by'),
    (_changed_arch(forward_dtype='bfloat16'), r"dtype \('bfloat16' there"),
    (_changed_arch(H_layers=0), r"kind \('trm' there, 'hrm' by the tensors\)"),
    (_changed_arch(pos_encodings='learned'), 'inner.embed_pos.* is missing'),
    (_changed_arch(num_heads=3), 'num_heads=3; choose'),
    (_changed_arch(num_heads='3'), "model.num_heads='3' must be a"),
    (_changed_arch(num_heads=None), 'model.num_heads=None must be a'),
    (_changed_arch(H_cycles=True), 'model.H_cycles=True must be a'),
    (_changed_arch(expansion='big'), "model.expansion='big' must be a"),
    (_changed_arch(expansion=float('nan')), 'model.expansion=nan must be a'),
    (_changed_arch(halt_max_steps=0), 'halt_max_steps=0'),
    (_changed(seed=None), 'seed=None must be a'),
    (_changed(lr='fast'), "learning_rate='fast' must be a"),
    (_changed(global_batch_size=0), 'global_batch_size must be at least 1'),
    (_changed_arch(loss=['x']), 'arch or loss is missing; name another'),
    (_changed_arch(loss={}), 'loss_type is missing; name another'),
    (_changed_arch(loss={'loss_type': ['x']}), r"loss_type=\['x'\] is unknown"),
    (_without('L_cycles'), 'L_cycles is missing; name another'),
    (lambda told: [told], 'arch or loss is missing'),
    (lambda told: {}, 'arch is missing'),
    (lambda told: 'text', 'arch or loss is missing'),
    (lambda told: b'a: [1', 'not readable as YAML .* line 1'),
    (lambda told: b'\xff\xfe\xff', 'not readable as YAML'),
    (lambda told: b'a: 2001-99-99', 'not readable as YAML'),
    (lambda told: b'[' * 10_000, 'not readable as YAML'),
    (lambda told: b'!!python/object/apply:os.abort []', 'not readable as YAML'),
    (lambda told: None, 'cannot be read'),
  ],
)
def test_settings_that_cannot_be_of_this_run(change, message, sizes, tmp_path):
  path = _write(tmp_path / 'theirs' / 'x.pt', _published(sizes))
  told = change(_all_config())
  all_config = tmp_path / 'a.yaml'
  if isinstance(told, bytes):
    all_config.write_bytes(told)
  elif told is not None:
    all_config.write_text(yaml.dump(told))
  _refused(
    *(tmp_path, message, convert.make_run, path, _sudoku('hrm')),
    *(tmp_path / 'run', None, all_config),
    error=(ConfigError, DataError),
  )


# Files that do not fit.


def _set(name, array):
  return lambda arrays: arrays | {name: array}


@pytest.mark.parametrize(
  'system, tensors, change, message',
  [
    (
      'trm',
      {},
      None,
      'kind hrm, --config one of kind trm; name a config of th',
    ),
    ('hrm', {'kind': 'trm'}, None, 'kind trm, --config one of kind hrm; name'),
    ('direct', {}, None, 'kind hrm, --config one of kind direct; name'),
    (
      *('hrm', {}, lambda a: {k: v for k, v in a.items() if 'o_pr' not in k}),
      r'H_level.layers.0.self_attn.o_proj.weight is missing; .*1.*; .*L_level',
    ),
    ('hrm', {}, _set('inner.odd', np.zeros(1)), 'inner.odd is not known; use'),
    (
      *('hrm', {}, _set('inner.lm_head.weight', np.zeros((3, D), np.float32))),
      r'inner.lm_head.weight has shape \(3, 16\), not \(\d+, 16\); use the fi',
    ),
    ('hrm', {}, _set('inner.L_init', np.zeros(D, int)), 'L_init is of int64'),
    ('hrm', {}, _set('inner.L_init', np.zeros(D)), 'L_init is of float64'),
    (
      *('hrm', {}, _set('model.inner.L_init', np.zeros(D, np.float32))),
      'inner.L_init stands there twice',
    ),
    (
      'hrm',
      {},
      _set(TABLE, np.zeros([], np.float32)),
      'puzzle_emb.* has shape',
    ),
    (
      'hrm',
      {},
      _set(TABLE, np.zeros((0, D), np.float32)),
      'puzzle_emb.* shape',
    ),
    ('hrm', {'tokens': 3}, None, 'made for 3 tokens, .* data have 16 cells'),
    ('hrm', {'rows': 4}, None, '4 rows without names; name .* --identifiers='),
    (
      *('trm', {'kind': 'trm', 'mlp_t': 9}, None),
      'made for 9 tokens, .* data have 16 cells',
    ),
    ('hrm', {}, lambda a: {}, 'embed_tokens.embedding_weight is missing'),
    (
      *('hrm', {}, lambda a: {'layer.weight': np.zeros(2), 'b': np.zeros(2)}),
      r'not a state dict of HRM, TRM or URM \(found: b, layer.weight',
    ),
  ],
)
def test_tensors_that_do_not_fit(
  system, tensors, change, message, sizes, tmp_path
):
  arrays = _published(sizes, **tensors)
  if change:
    arrays = change(arrays)
  path = _write(tmp_path / 'theirs' / 'x.safetensors', arrays)
  workdir = tmp_path / 'run'
  _refused(
    *(tmp_path, message, convert.make_run, path, _sudoku(system)),
    workdir,
  )


def test_tokens_of_other_puzzles(sizes, tmp_path):
  path = _write(tmp_path / 'x.pt', _published((sizes[0] + 3, sizes[1])))
  message = _refused(
    *(tmp_path, 'embed_tokens', convert.make_run, path, _sudoku('hrm')),
    tmp_path / 'run',
  )
  assert 'inner.lm_head.weight has shape' in message


@pytest.mark.parametrize(
  'names, message',
  [
    (['<blank>', 'a'], 'has 2 names, the puzzle table of .* has 5'),
    ([*ROW_NAMES, 'd'], 'has 6 names, the puzzle table of .* has 5; both'),
    ([*ROW_NAMES[:4], 'b'], "name 'b' is there twice"),
    # One name in two forms.
    ([*ROW_NAMES[:4], 'b|||t1|||0234567891'], "'b_t1_0234567891' is there tw"),
    ({'a': 1}, 'must be a list of names'),
    ([*ROW_NAMES[:4], 5], 'must be a list of names'),
    (None, 'cannot be read'),
  ],
)
def test_names_that_do_not_fit(names, message, sizes, tmp_path):
  path = _write(tmp_path / 'x.pt', _published(sizes, rows=ROWS))
  names_path = tmp_path / 'names.json'
  if names is not None:
    names_path.write_text(json.dumps(names))
  _refused(
    *(tmp_path, message, convert.make_run, path, _sudoku('hrm')),
    *(tmp_path / 'run', names_path),
    error=DataError,
  )


class _Harm:
  def __init__(self, marker):
    self.marker = marker

  def __reduce__(self):
    return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize('bare', [True, False])
def test_a_malicious_pickle_is_not_executed(bare, sizes, tmp_path):
  marker, path = tmp_path / 'marker', tmp_path / 'x.pt'
  harm = pickle.dumps({'inner.H_init': _Harm(marker)}, protocol=2)
  if bare:
    path.write_bytes(harm)
  else:
    with zipfile.ZipFile(path, 'w') as file:
      file.writestr('x/data.pkl', harm)
  _refused(
    *(tmp_path, 'not executed', convert.make_run, path, _sudoku('hrm')),
    tmp_path / 'run',
  )
  # It would have done harm.
  pickle.loads(harm)
  assert marker.is_dir()


def test_workdirs_that_are_somebody_elses(sizes, tmp_path):
  path = _write(tmp_path / 'x.pt', _published(sizes))
  taken, file = tmp_path / 'taken', tmp_path / 'file'
  taken.mkdir()
  (taken / 'note').write_text('mine')
  file.write_text('mine')
  for workdir, message in (
    (taken, 'is not empty; name a new directory'),
    (file, 'is not empty; name a new directory'),
    (file / 'run', 'cannot be written'),
  ):
    _refused(
      *(tmp_path, message, convert.make_run, path, _sudoku('hrm')),
      workdir,
    )
  _refused(
    *(tmp_path, 'step=-1', convert.make_run, path, _sudoku('hrm')),
    *(tmp_path / 'run', None, None, -1),
  )
  # An empty one may be there.
  empty = tmp_path / 'empty'
  empty.mkdir()
  convert.make_run(path, _sudoku('hrm'), empty, step=12)
  assert checkpoints.Checkpoints(empty).steps() == [12]
  _refused(
    *(tmp_path, 'is not empty', convert.make_run, path, _sudoku('hrm')),
    empty,
  )


@pytest.fixture(scope='module')
def converted(sizes, tmp_path_factory):
  """Made of one of their files."""
  directory = tmp_path_factory.mktemp('converted')
  path = _write(directory / 'x.pt', _published(sizes))
  convert.make_run(path, _sudoku('hrm'), directory / 'run')
  return directory / 'run'


@pytest.mark.parametrize(
  'name, message',
  [
    ('x.pt', 'x.pt: .* end the name in .safetensors'),
    ('new/deep/x', 'x: .* end the name in .safetensors'),
    ('taken.pt', 'taken.pt exists already; name'),
    ('dangling.pt', 'dangling.pt exists already; name'),
    ('beside/x.safetensors', 'identifiers.json exists already; name'),
    ('taken.pt/x.safetensors', 'cannot be written'),
    ('full/x.safetensors', 'cannot be written'),
  ],
)
def test_places_that_cannot_be_written(name, message, converted, tmp_path):
  (tmp_path / 'taken.pt').write_text('mine')
  (tmp_path / 'dangling.pt').symlink_to(tmp_path / 'nowhere')
  (tmp_path / 'beside').mkdir()
  (tmp_path / 'beside' / 'identifiers.json').write_text('[]')
  out = tmp_path / name
  with pytest.MonkeyPatch.context() as patch:
    if name.startswith('full'):

      def no_room(*_):
        raise OSError(28, 'No space left on device')

      # The last of the three files.
      patch.setattr(files, 'write_text', no_room)
    _refused(tmp_path, message, write, converted, out)


def test_checkpoints_that_are_not_there(converted, tmp_path):
  out = tmp_path / 'x.pt'
  _refused(
    tmp_path, 'no checkpoint of step 5', write,
    *(converted, out, 5),
  )  # fmt: skip
  _refused(tmp_path, 'no config.json', write, tmp_path, out)


@pytest.mark.parametrize('kind', ['direct', 'recurrent_transformer'])
def test_models_without_a_published_form(kind, write_run, tmp_path):
  workdir = write_run('run', sudoku.get_config(f'demo,{kind}'), 'version')
  _refused(
    *(tmp_path, f'model.kind={kind} has no published form; only hrm, trm'),
    *(write, workdir, tmp_path / 'x.pt'),
  )


@pytest.mark.parametrize(
  'kind, mlp', [('hrm', 'conv_swiglu'), ('urm', 'swiglu')]
)
def test_mlps_without_a_published_form(kind, mlp, write_run, tmp_path):
  config = sudoku.get_config(f'demo,{kind}')
  config.model.mlp = mlp
  workdir = write_run('run', config, 'version')
  message = f'model.mlp={mlp} has no published form with model.kind={kind}'
  _refused(tmp_path, message, write, workdir, tmp_path / 'x.pt')


def test_prefix_tokens_that_the_published_hrm_cannot_have(sizes, tmp_path):
  """Its code would take as many as the embedding fills, and predict else."""
  path = _write(tmp_path / 'x.pt', _published(sizes, ndim=D + 1))
  for tokens, fits in ((2, True), (3, False)):
    workdir = tmp_path / f'run_{tokens}'
    config = _sudoku('hrm', **{'model.puzzle_emb_len': tokens})
    convert.make_run(path, config, workdir)
    out = tmp_path / 'out' / 'x.safetensors'
    if fits:
      write(workdir, out)
      continue
    for written in out.parent.iterdir():
      written.unlink()
    _refused(
      *(tmp_path, 'puzzle_emb_len=3 has no published form.* fills, 2'),
      *(write, workdir, out),
    )


# The command.


@pytest.fixture
def command(monkeypatch):
  """The command in this process; the values of its flags do not stay."""
  saved = flagsaver.save_flag_values(convert.FLAGS)

  def call(**given):
    monkeypatch.setattr(
      sys, 'argv', ['convert', *(f'--{k}={v}' for k, v in given.items())]
    )
    try:
      convert.main(cli.parse(convert.FLAGS, 'convert'))
    finally:
      flagsaver.restore_flag_values(saved, convert.FLAGS)

  return call


@pytest.mark.parametrize(
  'given, message',
  [
    ({'workdir': 'w'}, 'name --checkpoint=FILE .* or --out=FILE.safet'),
    (
      {'workdir': 'w', 'checkpoint': 'x.pt', 'out': 'y.pt'},
      'name --checkpoint=FILE .* or',
    ),
    ({'checkpoint': 'x.pt'}, '--workdir is missing'),
    ({'out': 'x.pt'}, '--workdir is missing'),
    ({'checkpoint': 'x.pt', 'workdir': 'w'}, '--config is missing'),
    ({'out': 'x.pt', 'workdir': 'w'}, 'w: no config.json'),
    (
      {'checkpoint': 'x.pt', 'workdir': 'w', 'config': 'demo'},
      'x.pt: no such file',
    ),
  ],
)
def test_flags(given, message, command, tmp_path, monkeypatch):
  if 'config' in given:
    demo = pathlib.Path(sudoku.__file__).resolve()
    given = given | {'config': f'{demo}:demo'}
  monkeypatch.chdir(tmp_path)
  _refused(tmp_path, message, lambda: command(**given))


def test_the_command_says_what_it_did(command, sizes, tmp_path, capsys):
  path = _write(
    tmp_path / 'step_7.pt', _published(sizes, rows=ROWS), '', ROW_NAMES
  )
  demo = pathlib.Path(sudoku.__file__).resolve()
  run, out = str(tmp_path / 'run'), str(tmp_path / 'out' / 'x.safetensors')
  command(checkpoint=path, workdir=run, config=f'{demo}:demo')
  command(workdir=run, out=out, step=7, dtype='bfloat16')
  assert capsys.readouterr().out == (
    'Puzzle table: 5 rows, 1 of puzzles that are in the data\n'
    '  4 rows of 2 puzzles that the data lack: b, c\n'
    f'Written: {run}; score it with python -m experiments.evaluate '
    f'--workdir={run}\n'
    f'Written: {out}, with identifiers.json and all_config.yaml beside\n'
  )
  found = _bare(out)
  assert found['inner.lm_head.weight'].dtype == BF16
  # The dense tensors alone: the initial states are of the activations' type.
  assert found['inner.H_init'].dtype == np.float32
