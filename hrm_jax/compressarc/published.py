"""The published code's names of CompressARC's arrays, both ways."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from hrm_jax.compressarc import multitensor, network
from hrm_jax.compressarc.multitensor import Multi
from hrm_jax.compressarc.network import Latents, Weights

_RESIDUAL = ('share_up', 'softmax', 'nonlinear', 'share_down')
_CELLS = ('cummax', 'shift')

# An array of ours, which part of it, and the order of its axes over there.
_Place = tuple[np.ndarray, tuple[Any, ...], Sequence[int]]


def write(
  arrays: dict[str, np.ndarray], latents: Latents, weights: Weights,
  sizes: Sequence[int],
) -> None:  # fmt: skip
  """Puts arrays of the published code into ours, which are NumPy's.

  Args:
    arrays: by the published names.
    latents: padded or not.
    weights: those of kinds that are tied to another stay as they are.
    sizes: the real E, C, X and Y.
  """
  for name, (array, index, order) in _places(latents, weights, sizes):
    value = arrays[name]
    if order:
      value = value.transpose(order)
    array[index] = value.reshape(array[index].shape)


def read(
  latents: Latents, weights: Weights, like: dict[str, tuple[int, ...]],
  sizes: Sequence[int],
) -> dict[str, np.ndarray]:  # fmt: skip
  """The inverse of `write`; `like` tells the shapes over there."""
  found = {}
  for name, (array, index, order) in _places(latents, weights, sizes):
    value = array[index]
    if order:
      value = value.transpose(np.argsort(order))
    found[name] = value.reshape(like[name])
  return found


def noise(flat: np.ndarray, like: Multi, sizes: Sequence[int]) -> Multi:
  """Draws of the 18 tensors, one after another, as a multitensor."""
  found, start = Multi(*map(np.zeros_like, like)), 0
  for letters in multitensor.tensors():
    array, index, order = _tensor(found, letters, sizes)
    shape = array[index].shape
    over_there = [shape[i] for i in np.argsort(order)]
    size = int(np.prod(shape))
    draws = flat[start : start + size].reshape(over_there)
    array[index] = draws.transpose(order)
    start += size
  return found


def _tensor(of: Multi, letters: str, sizes: Sequence[int]) -> _Place:
  part, _ = multitensor.tensors()[letters]
  E, C, X, Y = sizes
  spans = {
    'E': slice(E), 'C': slice(1, 1 + C), 'X': slice(1, 1 + X),
    'Y': slice(1, 1 + Y),
  }  # fmt: skip
  index: list[Any] = [spans[x] if x in letters else 0 for x in 'ECXY']
  if 'E' not in letters:
    index[3] = -1
  theirs = [x for x in 'ECDXY' if x in letters]
  ours = [x for x in 'ECXYD' if x in letters]
  order = [*(theirs.index(x) for x in ours), len(ours)]
  return getattr(of, part), tuple(index), order


def _places(
  latents: Latents, weights: Weights, sizes: Sequence[int]
) -> Iterator[tuple[str, _Place]]:
  layers = weights.layers
  for letters, (part, kind) in multitensor.tensors().items():
    own = f'multiposteriors.{letters}'
    yield f'{own}.mean', _tensor(latents.mean, letters, sizes)
    adjustment = _tensor(latents.adjustment, letters, sizes)
    yield f'{own}.local_capacity_adjustment', adjustment
    capacity = getattr(latents.capacity, part)
    yield f'target_capacities.{letters}', (capacity, (kind,), ())
    if 'Y' in letters and 'X' not in letters:
      continue
    for ours, theirs in (('decode', 'weight'), ('decode_bias', 'bias')):
      array = getattr(getattr(weights, ours), part)
      yield f'decode_weights.{letters}.{theirs}', (array, (kind,), ())
    mine = network.subsets(''.join(x for x in 'CDXY' if x in letters))
    sets = [getattr(network.SUBSETS, part).index(one) for one in mine]
    for layer in range(network.LAYERS):
      for name in _RESIDUAL:
        for side, multi in enumerate(getattr(layers, name)):
          index: tuple[Any, ...] = (layer, kind)
          if name == 'softmax' and side:
            index = (layer, kind, sets)
          place = (getattr(multi, part), index, ())
          yield f'{name}_weights.{layer}.{letters}.{side}', place
      if letters in ('EDXY', 'ECDXY'):
        for name in _CELLS:
          for side, array in enumerate(getattr(layers, name)):
            place = (array, (layer, int('C' in letters)), ())
            yield f'{name}_weights.{layer}.{letters}.{side}', place
      if part == 'd':
        count = 1 + network.MATRICES[kind].max()
        index = (layer, kind, slice(count))
        place = (layers.direction_share, index, ())
        yield f'direction_share_weights.{layer}.{letters}', place
  for name, array in (
    ('head_weights.weight', weights.head),
    ('head_weights.bias', weights.head_bias),
    ('mask_weights.weight', weights.masks),
    ('mask_weights.bias', weights.masks_bias),
  ):
    yield name, (array, (), ())
