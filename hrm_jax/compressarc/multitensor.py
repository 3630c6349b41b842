"""CompressARC's multitensor: 18 tensors in two dense arrays.

A tensor has some of the axes E (examples), C (colours), D (eight directions), X
(rows) and Y (columns), and one more of channels. All tensors without D lie side
by side in one array, [E, C', X', Y', K], those with D in another, [E, C', X',
Y', 8, K]. The axes C', X' and Y' begin with a slot for "without this axis", and
Y' ends with one for "without E" (at e = 0, x = 0 alone). So sums over subsets
of the axes are sums along one axis after the other, and a program has few
operations, whatever the task. Some positions stand for nothing: they hold 0.

The kind of a position says which of C, X and Y its tensor has, or that it has
no E: its number is 5 · (has C) + (neither X nor Y, Y, X, both, without E).
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

DIRECTIONS = 8
KINDS = 10
# Added to a mean of squares before its root.
_EPSILON = 1e-8


class Multi(NamedTuple):
  """An array, or something else, for each part of the multitensor."""

  n: Any  # tensors without D, [E, C', X', Y', K]
  d: Any  # tensors with D, [E, C', X', Y', 8, K]


def parts(function, *multis: Multi) -> Multi:
  """Applies a function to each part of some multitensors."""
  return Multi(*map(function, *multis))


def tensors() -> dict[str, tuple[str, int]]:
  """Part and kind of each tensor by its letters, in the published order."""
  found = {}
  for bits in range(1, 32):
    letters = ''.join(x for i, x in enumerate('ECDXY') if bits >> i & 1)
    if letters != 'E' and ('E' in letters or not {*'XY'} & {*letters}):
      space = 2 * ('X' in letters) + ('Y' in letters) if 'E' in letters else 4
      part = 'd' if 'D' in letters else 'n'
      found[letters] = part, 5 * ('C' in letters) + space
  return found


@functools.cache
def kinds(C: int, X: int, Y: int) -> np.ndarray:
  """[1 + C, 1 + X, 2 + Y]: the kind of each position, for its array sizes."""
  c, x, y = np.ogrid[: C + 1, : X + 1, : Y + 2]
  space = np.where(y > Y, 4, 2 * (x > 0) + (y > 0))
  return 5 * (c > 0) + space


class Frame(NamedTuple):
  """The real part of the arrays of a task."""

  masks: Multi  # bool, like the arrays but for 1 direction and 1 channel
  counts: Multi  # [KINDS], positions of a kind with their directions
  inside: jax.Array  # [E, X, Y], the union of input and output grid
  means: tuple[jax.Array, ...]  # weights of the means along Y, X and C
  one: jax.Array  # 1, as XLA does not know


def frame(problem, inside: jax.Array) -> Frame:
  """The frame of the arrays of a problem, which may be padded.

  Means along X and Y are over the cells inside the grids where the problem says
  so, a missing space axis being taken at its first entry.
  """
  E, X, Y = inside.shape
  dtype = inside.dtype
  C = problem.colours.shape[0] - 1
  e, c, x, y = np.ogrid[:E, : C + 1, : X + 1, : Y + 2]
  real = problem.sizes
  without_e = y == Y + 1
  mask = (e < real[0]) & (c <= real[1]) & (x <= real[2])
  mask &= jnp.where(without_e, (e == 0) & (x == 0), y <= real[3])
  # The tensors of E alone, and of no axis, are not there.
  plain = (c > 0) | (x > 0) | ((y > 0) & ~without_e)
  masks = Multi((mask & plain)[..., None], mask[..., None, None])
  counts = Multi(
    by_kind(masks.n.astype(dtype))[:, 0],
    DIRECTIONS * by_kind(masks.d.astype(dtype))[:, 0],
  )
  # [E, 1, X', Y'], the last slot of Y' apart.
  ends = jnp.pad(inside, ((0, 0), (1, 0), (1, 1)), mode='edge')[:, None]

  def weights(axis, entries):
    plain = jnp.broadcast_to(entries.astype(dtype), ends.shape)
    plain = plain / jnp.maximum(plain.sum(axis, keepdims=True), 1)
    cells = ends * entries
    masked = cells / (cells.sum(axis, keepdims=True) + 1e-4)
    return jnp.where(problem.masked_means, masked, plain)

  colours = ((c > 0) & (c <= real[1])).astype(dtype)
  return Frame(
    masks, counts, inside,
    (
      weights(3, (y > 0) & (y <= real[3])),
      weights(2, (x > 0) & (x <= real[2]) & ~without_e),
      colours / jnp.maximum(real[1], 1),
    ),
    jnp.asarray(real[0] > 0, dtype),
  )  # fmt: skip


def _one_hot(a: jax.Array) -> np.ndarray:
  """[KINDS, positions] of an array."""
  of = kinds(a.shape[1] - 1, a.shape[2] - 1, a.shape[3] - 2).ravel()
  return (np.arange(KINDS)[:, None] == of).astype(a.dtype)


def by_kind(a: jax.Array) -> jax.Array:
  """Sums over the positions of each kind, [KINDS, K]."""
  sums = a.sum(axis=(0, 4) if a.ndim == 6 else 0)
  return jnp.matmul(_one_hot(a), sums.reshape(-1, a.shape[-1]))


def spread(of_kinds: jax.Array, like: jax.Array) -> jax.Array:
  """The value of each position's kind: [KINDS, K] → [C', X', Y', (1,) K]."""
  found = jnp.matmul(_one_hot(like).T, of_kinds)
  one = (1,) * (like.ndim - 5)
  return found.reshape(*like.shape[1:4], *one, of_kinds.shape[-1])


@jax.custom_vjp
def norm(a: jax.Array, mask: jax.Array, count: jax.Array) -> jax.Array:
  """Normalises each channel of each tensor over its real positions."""
  return _norm(a, mask, count)[0]


def _norm(a, mask, count):
  scale = 1 / jnp.maximum(count, 1)[:, None]
  a = jnp.where(mask, a, 0)
  a = jnp.where(mask, a - spread(by_kind(a) * scale, a), 0)
  root = spread(jax.lax.rsqrt(by_kind(a * a) * scale + _EPSILON), a)
  out = a * root
  return out, (out, root, mask, count)


def _norm_backward(kept, gradient):
  out, root, mask, count = kept
  scale = 1 / jnp.maximum(count, 1)[:, None]
  gradient = jnp.where(mask, gradient, 0)
  along = spread(by_kind(gradient * out) * scale, out)
  mean = spread(by_kind(gradient) * scale, out)
  return jnp.where(mask, root * (gradient - mean - out * along), 0), None, None


norm.defvjp(_norm, _norm_backward)


# Kinds with weights of their own: one with Y alone has those of that with X.
TIED = np.array([0, 2, 2, 3, 4, 5, 7, 7, 8, 9], np.int32)


def _edges(a: jax.Array) -> jax.Array:
  """Positions without X or without Y, [E, C', 1 + Y + 1 + X, ...]."""
  first = jax.lax.index_in_dim(a, 0, axis=2, keepdims=False)
  below = jax.lax.index_in_dim(a, 0, axis=3, keepdims=False)[:, :, 1:]
  return jnp.concatenate([first, below], axis=2)


# Entries along C', without and with C.
_BY_C = slice(1), slice(1, None)


class Placed(NamedTuple):
  """Weights by the positions that they are for."""

  cells: jax.Array  # [..., K, L], with C, X and Y
  plain: jax.Array  # [..., K, L], with X and Y alone
  # [..., 2, edges, K, L], as `_edges` and `_BY_C`; None where there are none.
  edges: jax.Array | None


def place(weights: jax.Array, X: int, Y: int, tied: bool = True) -> Placed:
  """Weights of kinds, [..., KINDS, K, L], for arrays of X rows and Y columns.

  With `tied`, kinds have the weights of those that they are tied to.
  """
  of = kinds(1, X, Y)
  edges = np.concatenate([of[:, 0], of[:, 1:, 0]], axis=1)
  own = np.arange(KINDS)[:, None, None] == (TIED[edges] if tied else edges)
  return Placed(
    weights[..., 8, :, :],
    weights[..., 3, :, :],
    jnp.einsum('tcs,...tkl->...cskl', own.astype(weights.dtype), weights),
  )


@jax.custom_vjp
def linear(a: jax.Array, weights: Placed) -> jax.Array:
  """Multiplies the channels, [E, C', X', Y', (8,) K], by their weights.

  Most positions have C, X and Y: all are multiplied as if they had, and then
  the few others take their places.
  """
  out = _set(a @ weights.cells, a[:, :1] @ weights.plain)
  if weights.edges is None:
    return out
  edges, across = _edges(a), a.shape[3]
  edges = jnp.concatenate([
    jnp.einsum('ecs...k,skl->ecs...l', edges[:, c], weights.edges[i])
    for i, c in enumerate(_BY_C)
  ], axis=1)  # fmt: skip
  out = _set(out, edges[:, :, None, :across])
  return _set(out, edges[:, :, across:, None], 0, 0, 1)


def _linear_backward(kept, gradient):
  a, weights = kept

  def product(a, b):
    # The first one is transposed: better so the one with fewer channels.
    if a.shape[-1] > b.shape[-1]:
      return product(b, a).T
    # Of arrays with two axes no transpose is written.
    a, b = (x.reshape(-1, x.shape[-1]) for x in (a, b))
    return jnp.tensordot(a, b, (0, 0))

  cells, plain = product(a, gradient), product(a[:, :1], gradient[:, :1])
  back = jax.tree.map(lambda w: jnp.swapaxes(w, -1, -2), weights)
  found = Placed(cells - plain, plain, None)
  if weights.edges is not None:
    d = 'd' * (a.ndim - 5)
    of, to = _edges(a), _edges(gradient)
    edges = jnp.stack([
      jnp.einsum(f'ecs{d}k,ecs{d}l->skl', of[:, c], to[:, c]) for c in _BY_C
    ])  # fmt: skip
    # Of all positions, less the others among them.
    without_c, with_c = edges.sum(1)
    found = Placed(found.cells - with_c, plain - without_c, edges)
  return linear(gradient, back), found


linear.defvjp(lambda a, w: (linear(a, w), (a, w)), _linear_backward)


def _set(a: jax.Array, value: jax.Array, *start: int) -> jax.Array:
  start = (*start, *[0] * (a.ndim - len(start)))
  return jax.lax.dynamic_update_slice(a, value, start)


def _entries(a: jax.Array, axis: int) -> np.ndarray:
  """Which positions of an array have an axis, 1 to 3: C, X or Y."""
  places = np.arange(a.shape[axis])
  found = (places > 0) & ((axis < 3) | (places < len(places) - 1))
  return np.expand_dims(found, [i for i in range(a.ndim) if i != axis])


@jax.custom_vjp
def _up(a: jax.Array, one: jax.Array) -> jax.Array:
  """Adds to each tensor of a part those with a part of its axes.

  Positions that stand for nothing may get something, which `norm` leaves out.
  """
  last = a.shape[3] - 1
  with_e = np.arange(last + 1).reshape(-1, *[1] * (a.ndim - 4)) < last
  for axis in (3, 2, 1):
    first = jax.lax.slice_in_dim(a, 0, 1, axis=axis)
    a = (a + jnp.where(_entries(a, axis), first, 0)) / one
  return a + jnp.where(with_e, a[:1, :, :1, last:], 0)


def _up_backward(kept, gradient):
  last = gradient.shape[3] - 1
  all_e = gradient[:, :, :, :last].sum((0, 2, 3), keepdims=True)
  own = gradient[:1, :, :1, last:]
  gradient = _set(gradient, own + all_e, 0, 0, 0, last)
  for axis in (1, 2, 3):
    first = jax.lax.slice_in_dim(gradient, 0, 1, axis=axis)
    rest = jnp.where(_entries(gradient, axis), gradient, 0)
    rest = rest.sum(axis, keepdims=True)
    gradient = _set(gradient, first + rest)
  return gradient, None


_up.defvjp(lambda a, one: (_up(a, one), None), _up_backward)


def share_up(p: Multi, scope: Frame) -> Multi:
  """Adds to each tensor those with a part of its axes."""
  n, d = parts(lambda a: _up(a, scope.one), p)
  return once(Multi(n, d + n[..., None, :]), scope)


def once(x: Multi, scope: Frame) -> Multi:
  """The same, computed once on CPUs.

  XLA computes sums anew wherever they are made use of, but not quotients.
  """
  return parts(lambda a: a / scope.one, x)


def share_down(p: Multi, scope: Frame) -> Multi:
  """Adds to each tensor the means of those with more axes."""

  def within(a, axis, weights):
    weights = weights.reshape(*weights.shape, *[1] * (a.ndim - 4))
    mean = (a * weights).sum(axis, keepdims=True)
    return _set(a, jax.lax.slice_in_dim(a, 0, 1, axis=axis) + mean)

  along_y, along_x, along_c = scope.means
  n, d = (within(within(a, 3, along_y), 2, along_x) for a in p)
  n = n + d.mean(-2)
  examples = scope.masks.d[:, :1, :1, :1]

  def without_e(a):
    a = within(a, 1, along_c)
    real = examples.reshape(-1, *[1] * (a.ndim - 1))
    mean = jnp.where(real, a[:, :, :1, :1], 0).sum(0, keepdims=True)
    last = a.shape[3] - 1
    mean = mean / examples.sum() + a[:1, :, :1, last:]
    return _set(a, mean, 0, 0, 0, last)

  return Multi(without_e(n), without_e(d))
