"""The names and layouts that the published PyTorch code gives parameters.

Its linear weights are out × in, ours are in × out; all else is stored alike.
The names are those of HRM (arXiv 2506.21734) and TRM (2510.04871), which agree,
and of URM (2512.14693), whose one stack and state have others.
The published names of settings are here as well.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any

import ml_dtypes
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from hrm_jax.models import layers

PUZZLE_TABLE = 'inner.puzzle_emb.weights'
# The prefixes that torch.compile and the loss put before the names.
PREFIX = '_orig_mod.model.'

LOSSES = {
  'stablemax_cross_entropy': 'stablemax',
  'softmax_cross_entropy': 'softmax',
}
# Published name → ours.
OPTIMIZER_FIELDS = {
  'lr': 'learning_rate',
  'puzzle_emb_lr': 'puzzle_learning_rate',
  'weight_decay': 'weight_decay',
  'puzzle_emb_weight_decay': 'puzzle_weight_decay',
  'beta1': 'b1',
  'beta2': 'b2',
  'lr_warmup_steps': 'warmup_steps',
  'lr_min_ratio': 'min_ratio',
}
# What URM's code takes with `use_muon`, whatever its settings say.
MUON = {'kind': 'muon', 'weight_decay': 0.1, 'b1': 0.9, 'b2': 0.95}
# Settings with one name in both; the functions below know the others.
_MODEL_FIELDS = (
  'hidden_size', 'num_heads', 'H_cycles', 'L_cycles', 'expansion',
  'puzzle_emb_ndim', 'pos_encodings',
)  # fmt: skip

_BLOCK = r'params/(?:(\w+_level)|level)/blocks_(\d+)'
_LAYER = r'inner.\1.layers.\2'
# Our path → published name; kernels are transposed.
_PATTERNS = {
  'params/token_embedding': 'inner.embed_tokens.embedding_weight',
  'params/position_embedding': 'inner.embed_pos.embedding_weight',
  'params/(lm|q)_head/kernel': r'inner.\1_head.weight',
  'params/q_head/bias': 'inner.q_head.bias',
  rf'{_BLOCK}/attention/qkv/kernel': rf'{_LAYER}.self_attn.qkv_proj.weight',
  rf'{_BLOCK}/attention/out/kernel': rf'{_LAYER}.self_attn.o_proj.weight',
  rf'{_BLOCK}/mlp/filter/kernel': rf'{_LAYER}.mlp.dwconv.weight',
  rf'{_BLOCK}/mlp/filter/bias': rf'{_LAYER}.mlp.dwconv.bias',
  rf'{_BLOCK}/(mlp|mlp_t)/(\w+)/kernel': rf'{_LAYER}.\3.\4_proj.weight',
  'constants/z_([HL])_init': r'inner.\1_init',
  'puzzle_table': PUZZLE_TABLE,
}


def _published_names(paths: Collection[str]) -> dict[str, tuple[str, bool]]:
  """The published name of each of these paths, and whether it is transposed."""
  one_state = 'constants/z_L_init' not in paths
  names = {}
  for path in paths:
    for pattern, name in _PATTERNS.items():
      if match := re.fullmatch(pattern, path):
        # An only level has no name.
        name = match.expand(name).replace('..', '.')
        if name == 'inner.H_init' and one_state:
          name = 'inner.init_hidden'
        names[path] = name, path.endswith('kernel')
        break
    else:
      raise KeyError(f'no published name for {path}')
  return names


def to_published(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Gives variables, or gradients of them, their published names and layouts.

  Args:
    variables: {'params': …, 'constants': …}, or one of these alone.
  """
  flat = flatten_dict(dict(variables), sep='/')
  return {
    name: np.asarray(flat[path]).T if transposed else np.asarray(flat[path])
    for path, (name, transposed) in _published_names(flat).items()
  }


def without_prefix(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Removes what wrapped the model from names; a ValueError if two are one."""
  out = {}
  for name, array in arrays.items():
    short = name.removeprefix('_orig_mod.').removeprefix('model.')
    if short in out:
      raise ValueError(f'{short} stands there twice, with and without a prefix')
    out[short] = array
  return out


def model_fields(arch: dict[str, Any]) -> tuple[str, dict[str, Any]]:
  """Takes our kind of model and its settings *out of* published settings.

  Args:
    arch: `arch` of an all_config.yaml or of a golden file; loses what is taken.
      `H_layers` 0 means that one level serves both updates, which is TRM;
      `num_layers` is URM's.

  Raises:
    KeyError: a setting is missing.
  """
  if 'num_layers' in arch:
    # It takes `pos_encodings` and always has rotary ones.
    arch['pos_encodings'] = 'rope'
    fields = {name: arch.pop(name) for name in _MODEL_FIELDS}
    return 'urm', fields | {'layers': arch.pop('num_layers')}
  fields = {name: arch.pop(name) for name in _MODEL_FIELDS}
  high, low = arch.pop('H_layers'), arch.pop('L_layers')
  fields['puzzle_emb_len'] = arch.pop('puzzle_emb_len', 0 if high else 16)
  if high:
    return 'hrm', fields | {'H_layers': high, 'L_layers': low}
  return 'trm', fields | {'layers': low, 'mlp_t': arch.pop('mlp_t', False)}


def act_fields(arch: dict[str, Any], kind: str) -> dict[str, Any]:
  """Takes our settings of `act` out of published ones, as `model_fields` does.

  TRM, by `kind`, halts by q_halt alone unless `arch` says otherwise; URM always
  does, and has its exploration in the code.
  """
  if kind == 'urm':
    return {
      'halt_max_steps': arch.pop('loops'),
      'halt_exploration_prob': arch.pop('halt_exploration_prob', 0.1),
      'halting': 'halt_only',
    }
  halt_only = arch.pop('no_ACT_continue', kind == 'trm')
  return {
    'halt_max_steps': arch.pop('halt_max_steps'),
    'halt_exploration_prob': arch.pop('halt_exploration_prob'),
    'halting': 'halt_only' if halt_only else 'q_learning',
  }


def arch_of(model: Mapping[str, Any], act: Mapping[str, Any]) -> dict[str, Any]:
  """Returns published settings: the inverse of the two functions above."""
  out = {name: model[name] for name in _MODEL_FIELDS}
  out['halt_exploration_prob'] = act['halt_exploration_prob']
  # The published HRM would run in bfloat16 without it.
  out['forward_dtype'] = model['dtype']
  if model['kind'] == 'urm':
    return out | {
      'num_layers': model['layers'], 'loops': act['halt_max_steps']
    }  # fmt: skip
  out['halt_max_steps'] = act['halt_max_steps']
  out['no_ACT_continue'] = act['halting'] == 'halt_only'
  if model['kind'] == 'hrm':
    return out | {name: model[name] for name in ('H_layers', 'L_layers')}
  # The published TRM counts tokens even where no embedding fills them.
  length = model['puzzle_emb_len'] if model['puzzle_emb_ndim'] else 0
  return out | {
    'H_layers': 0,
    'L_layers': model['layers'],
    'mlp_t': model['mlp_t'],
    'puzzle_emb_len': length,
  }


def token_embedding(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
  """The embeddings of the tokens [V, D]; a ValueError where there are none."""
  embedding = _matrix(arrays, 'inner.embed_tokens.embedding_weight')
  if embedding is None:
    raise ValueError(
      'inner.embed_tokens.embedding_weight is missing: not a state dict of '
      f'HRM, TRM or URM (found: {", ".join(sorted(arrays)[:5])} …)'
    )
  return embedding


def infer_model_fields(
  arrays: Mapping[str, np.ndarray], seq_len: int, expansion: float
) -> dict[str, Any]:
  """Infers settings of the model from its arrays: sizes, kind, dtype, ….

  Heads and cycles leave no trace in the arrays. P, the number of prefix tokens,
  leaves one only in a table of positions or an MLP over the tokens. `expansion`
  is kept where it gives the MLP's width, as several values do.

  Raises:
    ValueError: these are not the parameters of such a model.
  """
  hidden_size = token_embedding(arrays).shape[1]
  blocks = {'H_level.': 0, 'L_level.': 0, '': 0}
  for name in arrays:
    if match := re.match(r'inner\.([HL]_level\.|)layers\.(\d+)\.', name):
      blocks[match[1]] = max(blocks[match[1]], int(match[2]) + 1)
  high, low, only = blocks.values()
  if not low and not only:
    raise ValueError(
      'no tensor of inner.L_level or inner.layers: not a state dict of HRM, '
      'TRM or URM'
    )
  fields: dict[str, Any] = {'hidden_size': hidden_size}
  num_tokens = mixer = None
  first = f'inner.{"" if only else "L_level."}layers.0.'
  if only:
    fields |= {'kind': 'urm', 'layers': only}
  elif high:
    fields |= {'kind': 'hrm', 'H_layers': high, 'L_layers': low}
  else:
    mixer = _matrix(arrays, f'{first}mlp_t.down_proj.weight')
    fields |= {'kind': 'trm', 'layers': low, 'mlp_t': mixer is not None}
    num_tokens = None if mixer is None else len(mixer)
  if (filters := arrays.get(f'{first}mlp.dwconv.weight')) is not None:
    fields |= {'mlp': 'conv_swiglu', 'filter_dtype': _dtype(filters)}
  down = _matrix(arrays, f'{first}mlp.down_proj.weight')
  # The features and the width of both MLPs.
  shapes = [matrix.shape for matrix in (down, mixer) if matrix is not None]
  if shapes:
    if any(layers.swiglu_width(n, expansion) != width for n, width in shapes):
      # The largest value that is too large for neither.
      expansion = min(width * 3 / (2 * n) for n, width in shapes)
    fields['expansion'] = expansion
  positions = _matrix(arrays, 'inner.embed_pos.embedding_weight')
  if positions is not None:
    fields['pos_encodings'] = 'learned'
    num_tokens = len(positions)
  table = _matrix(arrays, PUZZLE_TABLE)
  fields['puzzle_emb_ndim'] = 0 if table is None else table.shape[1]
  if table is not None and num_tokens is not None:
    if num_tokens <= seq_len:
      raise ValueError(
        f'made for {num_tokens} tokens, puzzle prefix included; the data have '
        f'{seq_len} cells'
      )
    fields['puzzle_emb_len'] = num_tokens - seq_len
  initial = arrays.get('inner.init_hidden' if only else 'inner.H_init')
  if initial is not None:
    fields['dtype'] = _dtype(initial)
  return fields


def _dtype(array: np.ndarray) -> str:
  return 'bfloat16' if array.dtype == ml_dtypes.bfloat16 else 'float32'


def _matrix(arrays: Mapping[str, np.ndarray], name: str) -> np.ndarray | None:
  array = arrays.get(name)
  if array is not None and (array.ndim != 2 or not array.size):
    raise ValueError(f'{name} has shape {array.shape}, not that of a matrix')
  return array


def from_published(
  arrays: Mapping[str, np.ndarray], like: Mapping[str, Any]
) -> dict[str, Any]:
  """Makes variables in the form of `like` of arrays under published names.

  Raises:
    ValueError: names are missing or left over, or shapes differ; it lists them.
  """
  flat, problems, used = {}, [], set()
  leaves = flatten_dict(dict(like), sep='/')
  for path, (name, transposed) in _published_names(leaves).items():
    leaf = leaves[path]
    used.add(name)
    if name not in arrays:
      problems.append(f'{name} is missing')
      continue
    array = arrays[name].T if transposed else arrays[name]
    if array.dtype.name not in ('float32', 'float16', 'bfloat16'):
      problems.append(f'{name} is of {array.dtype}, not float32 or bfloat16')
    if array.shape != leaf.shape:
      expected = leaf.shape[::-1] if transposed else leaf.shape
      problems.append(f'{name} has shape {arrays[name].shape}, not {expected}')
    flat[path] = np.asarray(array, leaf.dtype)
  problems += [f'{name} is not known' for name in sorted({*arrays} - used)]
  if problems:
    raise ValueError('; '.join(problems))
  return unflatten_dict(flat, sep='/')
