"""Published names, layouts and settings, from tensors and back."""

import json
import pathlib

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from experiments.configs import base
from hrm_jax.published import names as published
from tests import builders

GOLDEN = pathlib.Path(__file__).parents[2] / 'golden'
S, V, ROWS = 9, 12, 7


def _like(kind, seq_len=S, **fields):
  """Shapes of a model's variables and its puzzle table; nothing is drawn."""
  model = builders.model(kind, V, seq_len, **fields)
  like = jax.eval_shape(
    model.init,
    jax.random.key(0),
    jax.ShapeDtypeStruct((1, seq_len), jnp.int32),
    jax.ShapeDtypeStruct((1, model.settings.puzzle_emb_ndim), jnp.float32),
  )
  if model.settings.puzzle_emb_ndim:
    table = jax.ShapeDtypeStruct(
      (ROWS, model.settings.puzzle_emb_ndim), jnp.float32
    )
    like = like | {'puzzle_table': table}
  return like


def _arrays(like):
  """Published tensors of those shapes that take no memory."""
  return published.to_published(
    jax.tree.map(
      lambda leaf: np.broadcast_to(np.zeros([], leaf.dtype), leaf.shape), like
    )
  )


def _small(**fields):
  return dict(hidden_size=16, num_heads=2, puzzle_emb_ndim=16) | fields


def _infer(kind, **fields):
  return published.infer_model_fields(_arrays(_like(kind, **fields)), S, 4.0)


_SIZES = [
  # hidden size, blocks, expansion, E, puzzle_emb_len (0: as E needs).
  (16, 2, 1.0, 20, 0),
  (48, 3, 2.5, 16 * 48, 16),
  (64, 1, 8 / 3, 1, 1),
  (512, 4, 4.0, 512, 0),
  (1024, 5, 4.0, 0, 0),
]


@pytest.mark.parametrize('positions', ['rope', 'learned', 'none'])
@pytest.mark.parametrize('hidden, blocks, expansion, ndim, length', _SIZES)
@pytest.mark.parametrize('kind, mlp_t', [('hrm', 0), ('trm', 0), ('trm', 1)])
def test_sizes_are_inferred(
  kind, mlp_t, hidden, blocks, expansion, ndim, length, positions
):
  fields = dict(
    hidden_size=hidden,
    num_heads=2,
    expansion=expansion,
    puzzle_emb_ndim=ndim,
    puzzle_emb_len=length,
    pos_encodings=positions,
  )
  if kind == 'hrm':
    fields |= {'H_layers': blocks, 'L_layers': blocks + 1}
  else:
    fields |= {'layers': blocks, 'mlp_t': bool(mlp_t)}
  like = _like(kind, **fields)
  inferred = published.infer_model_fields(_arrays(like), S, expansion)

  assert inferred.pop('kind') == kind
  assert inferred.pop('dtype') == 'float32'
  # What leaves no trace is not made up.
  told = {'hidden_size', 'expansion', 'puzzle_emb_ndim'}
  told |= {'H_layers', 'L_layers'} if kind == 'hrm' else {'layers', 'mlp_t'}
  if positions == 'learned':
    told |= {'pos_encodings'}
  if ndim and (positions == 'learned' or mlp_t):
    told |= {'puzzle_emb_len'}
    assert inferred.pop('puzzle_emb_len') == (length or -(-ndim // hidden))
  assert inferred.keys() == told - {'puzzle_emb_len'}
  assert inferred == {key: fields[key] for key in inferred}
  # And a model of these settings takes the tensors.
  again = _like(kind, **(fields | inferred))
  assert jax.tree.map(lambda x: x.shape, again) == jax.tree.map(
    lambda x: x.shape, like
  )


@pytest.mark.parametrize('prefix', [*range(0, 17, 3), 16])
@pytest.mark.parametrize(
  'fields',
  [
    dict(kind='hrm', pos_encodings='learned'),
    dict(kind='trm', pos_encodings='none', mlp_t=True),
  ],
)
def test_prefix_tokens_are_inferred(prefix, fields):
  inferred = _infer(
    **_small(puzzle_emb_len=prefix, puzzle_emb_ndim=min(prefix, 1)), **fields
  )
  assert inferred['puzzle_emb_ndim'] == min(prefix, 1)
  assert inferred.get('puzzle_emb_len', 0) == prefix


@pytest.mark.parametrize(
  'kind, seq_len', [('hrm', S), ('trm', S), ('trm', 900)]
)
@pytest.mark.parametrize('hidden', [16, 40, 1000])
def test_an_expansion_is_found_that_gives_the_widths(kind, seq_len, hidden):
  fields = _small(hidden_size=hidden, seq_len=seq_len)
  if kind == 'trm':
    fields |= {'layers': 1, 'mlp_t': True}
  else:
    fields |= {'H_layers': 1, 'L_layers': 1}
  for expansion in (0.5, 2.0, 4.0, 7.3):
    like = _like(kind, **fields, expansion=expansion)
    arrays = _arrays(like)
    # What is set is kept where it fits, another found where not.
    for before in (expansion, 11.0):
      found = published.infer_model_fields(arrays, seq_len, before)['expansion']
      again = _like(kind, **fields, expansion=found)
      assert jax.tree.map(lambda x: x.shape, again) == jax.tree.map(
        lambda x: x.shape, like
      )
      assert before != expansion or found == expansion


def test_dtype_is_that_of_the_initial_states():
  fields = _small(dtype='bfloat16')
  assert _infer('hrm', **fields)['dtype'] == 'bfloat16'
  assert _infer('trm', **fields)['dtype'] == 'bfloat16'
  arrays = _arrays(_like('hrm', **_small()))
  for name in arrays.keys() - {'inner.H_init', 'inner.L_init'}:
    arrays[name] = arrays[name].astype(ml_dtypes.bfloat16)
  assert published.infer_model_fields(arrays, S, 4.0)['dtype'] == 'float32'


@pytest.mark.parametrize('filter_dtype', ['float32', 'bfloat16'])
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_what_urm_is_made_of_is_inferred(dtype, filter_dtype):
  fields = _small(layers=3, dtype=dtype, filter_dtype=filter_dtype)
  like = _like('urm', **fields)
  arrays = _arrays(like)
  assert arrays['inner.init_hidden'].shape == (16,)
  assert arrays['inner.layers.2.mlp.dwconv.weight'].shape == (256, 1, 2)
  assert arrays['inner.layers.2.mlp.dwconv.bias'].shape == (256,)
  inferred = published.infer_model_fields(arrays, S, 4.0)
  assert inferred.pop('kind') == 'urm'
  assert inferred.pop('mlp') == 'conv_swiglu'
  assert inferred.pop('expansion') == 4.0
  del fields['num_heads']
  assert inferred == fields


_SCALAR = np.zeros([])


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'inner.embed_tokens.embedding_weight': None}, 'embedding_weight is miss'),
    ({'inner.embed_tokens.embedding_weight': _SCALAR}, 'not that of'),
    (
      {'inner.embed_tokens.embedding_weight': np.zeros([V, 0])},
      'not that of a matrix',
    ),
    ({'inner.embed_pos.embedding_weight': np.zeros([S, 16])}, 'made for 9 tok'),
    ({'inner.embed_pos.embedding_weight': np.zeros([3, 16])}, 'made for 3 tok'),
    ({'inner.embed_pos.embedding_weight': _SCALAR}, 'embed_pos.* has shape'),
    ({'inner.puzzle_emb.weights': _SCALAR}, 'puzzle_emb.weights has shape'),
    ({'inner.puzzle_emb.weights': np.zeros(7)}, 'puzzle_emb.weights has shape'),
  ],
)
def test_tensors_that_no_model_has(changes, message):
  arrays = {**_arrays(_like('hrm', **_small())), **changes}
  arrays = {k: v for k, v in arrays.items() if v is not None}
  with pytest.raises(ValueError, match=message):
    published.infer_model_fields(arrays, S, 4.0)


def test_a_mixer_without_sizes():
  arrays = _arrays(_like('trm', **_small(), mlp_t=True))
  arrays['inner.L_level.layers.0.mlp_t.down_proj.weight'] = _SCALAR
  with pytest.raises(ValueError, match=r'mlp_t\.down_proj.* has shape'):
    published.infer_model_fields(arrays, S, 4.0)


def test_a_level_is_missing():
  arrays = _arrays(_like('hrm', **_small()))
  without = {k: v for k, v in arrays.items() if 'L_level' not in k}
  with pytest.raises(
    ValueError, match=r'no tensor of inner\.L_level or inner\.layers'
  ):
    published.infer_model_fields(without, S, 4.0)
  # Then it looks like TRM's.
  without = {k: v for k, v in arrays.items() if 'H_level' not in k}
  assert published.infer_model_fields(without, S, 4.0)['kind'] == 'trm'


@pytest.mark.parametrize('kind', ['hrm', 'trm', 'urm'])
def test_settings_there_and_back(kind):
  config = base.get_config(kind)
  model, act = config.model.to_dict(), config.act.to_dict()
  model |= {
    'hidden_size': 48,
    'num_heads': 3,
    'H_cycles': 5,
    'L_cycles': 7,
    'expansion': 1.5,
    'puzzle_emb_ndim': 31,
    'pos_encodings': 'learned',
    'dtype': 'float32',
  }
  if kind == 'hrm':
    model |= {'H_layers': 6, 'L_layers': 2}
  elif kind == 'trm':
    model |= {'layers': 6, 'mlp_t': True, 'puzzle_emb_len': 11}
  else:
    model |= {'layers': 6, 'pos_encodings': 'rope'}
  act |= {'halt_max_steps': 3, 'halt_exploration_prob': 0.25}
  for halting in ('q_learning', 'halt_only')[kind == 'urm' :]:
    act['halting'] = halting
    arch = published.arch_of(model, act)
    # JSON as YAML: plain values only.
    arch = json.loads(json.dumps(arch))
    found_kind, fields = published.model_fields(arch)
    assert found_kind == kind
    assert published.act_fields(arch, kind) == act
    assert arch.pop('forward_dtype') == 'float32'
    assert not arch
    # The gradient's reach and MLP are the method's, how it is computed our own
    # matter.
    ours = {
      'kind',
      'gradient',
      'mlp',
      'filter_dtype',
      'dtype',
      'attention',
      'fusion',
    }
    if kind == 'urm':
      ours |= {'puzzle_emb_len'}
    assert fields == {k: v for k, v in model.items() if k not in ours}


@pytest.mark.parametrize(
  'name', sorted(path.name for path in GOLDEN.glob('*.npz'))
)
def test_golden_files_tell_their_own_settings(name):
  """Names and layouts here are the published code's, not ours."""
  with np.load(GOLDEN / name) as file:
    arrays = {
      key.removeprefix('param/'): file[key]
      for key in file
      if key.startswith('param/')
    }
    seq_len = file['batch0/inputs'].shape[1]
    kind, told = published.model_fields(json.loads(str(file['config']))['arch'])
  inferred = published.infer_model_fields(arrays, seq_len, told['expansion'])
  assert inferred.pop('kind') == kind
  if kind == 'urm':
    told |= {'mlp': 'conv_swiglu', 'filter_dtype': 'float32'}
  elif not told['puzzle_emb_len']:
    told['puzzle_emb_len'] = -(-told['puzzle_emb_ndim'] // told['hidden_size'])
  told['dtype'] = 'float32'
  assert inferred == {key: told[key] for key in inferred}
  assert {'puzzle_emb_ndim', 'hidden_size', 'expansion'} <= inferred.keys()


def test_prefixes_come_off():
  array = np.zeros(1)
  for prefix in ('', 'model.', '_orig_mod.', '_orig_mod.model.'):
    found = published.without_prefix({f'{prefix}inner.H_init': array})
    assert list(found) == ['inner.H_init']
  with pytest.raises(ValueError, match=r'inner\.H_init stands there twice'):
    published.without_prefix(
      {'inner.H_init': array, '_orig_mod.model.inner.H_init': array}
    )


def test_every_difference_is_listed_at_once():
  like = _like('hrm', **_small(pos_encodings='learned'))
  arrays = _arrays(like)
  assert published.from_published(arrays, like).keys() == like.keys()
  arrays['inner.lm_head.weight'] = np.zeros([V, 17], np.float32)
  arrays['inner.L_level.layers.0.mlp.down_proj.weight'] = np.zeros(
    [3, 5], np.float32
  )
  arrays['inner.q_head.bias'] = np.zeros(2, np.int64)
  arrays['inner.H_init'] = np.zeros(16, np.float64)
  del arrays['inner.L_init']
  arrays['inner.stray'] = np.zeros(1)
  with pytest.raises(ValueError) as error:
    published.from_published(arrays, like)
  message = str(error.value)
  assert '\n' not in message
  assert set(message.split('; ')) == {
    f'inner.lm_head.weight has shape ({V}, 17), not ({V}, 16)',
    'inner.L_level.layers.0.mlp.down_proj.weight has shape (3, 5), not (16, '
    '256)',
    'inner.q_head.bias is of int64, not float32 or bfloat16',
    'inner.H_init is of float64, not float32 or bfloat16',
    'inner.L_init is missing',
    'inner.stray is not known',
  }


def test_what_trm_leaves_unsaid_has_its_defaults():
  model = {
    'hidden_size': 32,
    'num_heads': 4,
    'H_cycles': 3,
    'L_cycles': 6,
    'expansion': 4,
    'puzzle_emb_ndim': 32,
    'pos_encodings': 'rope',
  }
  halting = {'halt_max_steps': 16, 'halt_exploration_prob': 0.1}
  for high, kind, tokens, rule in (
    (0, 'trm', 16, 'halt_only'),
    (2, 'hrm', 0, 'q_learning'),
  ):
    arch = model | halting | {'H_layers': high, 'L_layers': 2}
    found, fields = published.model_fields(arch)
    assert (found, fields['puzzle_emb_len']) == (kind, tokens)
    assert published.act_fields(arch, found)['halting'] == rule
    assert not arch
