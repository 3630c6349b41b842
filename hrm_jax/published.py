"""Names and layouts of the published PyTorch code's parameters.

Its linear weights are out × in, ours in × out; all else is stored alike.
"""

import re
from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import numpy as np

PUZZLE_TABLE = 'inner.puzzle_emb.weights'

# Our path → published name, and whether the matrix is transposed.
_PATTERNS = (
  (r'params/token_embedding', 'inner.embed_tokens.embedding_weight', False),
  (r'params/position_embedding', 'inner.embed_pos.embedding_weight', False),
  (r'params/(lm|q)_head/kernel', r'inner.\1_head.weight', True),
  (r'params/q_head/bias', 'inner.q_head.bias', False),
  (
    r'params/(\w+_level)/blocks_(\d+)/attention/qkv/kernel',
    r'inner.\1.layers.\2.self_attn.qkv_proj.weight',
    True,
  ),
  (
    r'params/(\w+_level)/blocks_(\d+)/attention/out/kernel',
    r'inner.\1.layers.\2.self_attn.o_proj.weight',
    True,
  ),
  (
    r'params/(\w+_level)/blocks_(\d+)/(mlp|mlp_t)/(gate_up|down)/kernel',
    r'inner.\1.layers.\2.\3.\4_proj.weight',
    True,
  ),
  (r'constants/z_([HL])_init', r'inner.\1_init', False),
)


def _published_name(path: str) -> tuple[str, bool]:
  for pattern, name, transposed in _PATTERNS:
    if match := re.fullmatch(pattern, path):
      return match.expand(name), transposed
  raise KeyError(f'no published name for {path}')


def to_published(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Published names and layouts of `variables` (or of gradients in a
  dictionary of the same shape: {'params': …, 'constants': …})."""
  out = {}
  for path, leaf in flax.traverse_util.flatten_dict(
    dict(variables), sep='/'
  ).items():
    name, transposed = _published_name(path)
    out[name] = np.asarray(leaf).T if transposed else np.asarray(leaf)
  return out


def from_published(
  arrays: Mapping[str, np.ndarray], like: Mapping[str, Any]
) -> dict[str, Any]:
  """Variables in the shape of `like` from arrays under published names.

  Raises:
    ValueError: names missing or left over, or other shapes; lists them.
  """
  flat, problems, used = {}, [], {PUZZLE_TABLE}
  for path, leaf in flax.traverse_util.flatten_dict(
    dict(like), sep='/'
  ).items():
    name, transposed = _published_name(path)
    used.add(name)
    if name not in arrays:
      problems.append(f'{name} is missing')
      continue
    array = arrays[name].T if transposed else arrays[name]
    if array.shape != leaf.shape:
      expected = leaf.shape[::-1] if transposed else leaf.shape
      problems.append(f'{name} has shape {arrays[name].shape}, not {expected}')
    flat[path] = np.asarray(array, leaf.dtype)
  problems += [f'{name} is not known' for name in sorted({*arrays} - used)]
  if problems:
    raise ValueError('; '.join(problems))
  return flax.traverse_util.unflatten_dict(flat, sep='/')
