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


class Along(NamedTuple):
  """Weights of sums along each axis, 0 in the slots beside its entries.

  All are [E, C', X', Y'], or have 1 in the place of some of these.
  """

  c: jax.Array
  x: jax.Array
  y: jax.Array
  e: jax.Array


class Frame(NamedTuple):
  """The real part of the arrays of a task."""

  masks: Multi  # bool, like the arrays but for 1 direction and 1 channel
  counts: Multi  # [KINDS], positions of a kind with their directions
  inside: jax.Array  # [E, X, Y], the union of input and output grid
  means: Along  # weights of the means
  sums: Along  # 1 for all entries
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
  rows, columns = (x > 0) & ~without_e, (y > 0) & ~without_e
  return Frame(
    masks, counts, inside,
    Along(
      colours / jnp.maximum(real[1], 1),
      weights(2, rows & (x <= real[2])), weights(3, columns & (y <= real[3])),
      (e < real[0]).astype(dtype) / real[0],
    ),
    Along(*(jnp.asarray(a, dtype) for a in (c > 0, rows, columns, e >= 0))),
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


# Entries along C', whose kinds are the first and the last five.
_WITHOUT_C, _WITH_C = slice(1), slice(1, None)


def _edges(a: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Positions without X or without Y, by their tensors' space axes.

  Returns:
    [E, C', 2, (8,) K] with neither and without E, [E, C', Y, (8,) K] with Y
    alone and [E, C', X, (8,) K] with X alone.
  """
  row, column = a[:, :, 0], a[:, :, 1:, 0]
  ends = jnp.stack([row[:, :, 0], row[:, :, -1]], axis=2)
  return ends, row[:, :, 1:-1], column


@jax.custom_vjp
def linear(a: jax.Array, weights: jax.Array) -> jax.Array:
  """Multiplies the channels, [E, C', X', Y', (8,) K], by those of their kind.

  Most positions have C, X and Y: all are multiplied as if they had, and then
  the few others take their places.

  Args:
    a: all positions; or [E, C', X, Y, (8,) K], those with X and Y alone.
    weights: [KINDS, K, L]; or [2, K, L], without and with C.
  """
  if len(weights) == 2:
    return _set(a @ weights[1], a[:, _WITHOUT_C] @ weights[0])
  out = _set(a @ weights[8], a[:, _WITHOUT_C] @ weights[3])
  ends, *lines = _edges(a)
  halves = (_WITHOUT_C, weights[:5]), (_WITH_C, weights[5:])
  ends = jnp.concatenate([
    jnp.einsum('ecs...k,skl->ecs...l', ends[:, c], of[::4]) for c, of in halves
  ], axis=1)  # fmt: skip
  y, x = (
    jnp.concatenate([line[:, c] @ of[kind] for c, of in halves], axis=1)
    for kind, line in enumerate(lines, 1)
  )
  row = jnp.concatenate([ends[:, :, :1], y, ends[:, :, 1:]], axis=2)
  return _set(_set(out, row[:, :, None]), x[:, :, :, None], 0, 0, 1)


def _linear_backward(kept, gradient):
  a, weights = kept

  def product(a, b):
    # The first one is transposed: better so the one with fewer channels.
    if a.shape[-1] > b.shape[-1]:
      return product(b, a).T
    # Of arrays with two axes no transpose is written.
    a, b = (x.reshape(-1, x.shape[-1]) for x in (a, b))
    return jnp.tensordot(a, b, (0, 0))

  cells = product(a, gradient)
  plain = product(a[:, _WITHOUT_C], gradient[:, _WITHOUT_C])
  of_a = linear(gradient, jnp.swapaxes(weights, -1, -2))
  if len(weights) == 2:
    return of_a, jnp.stack([plain, cells - plain])
  ends, *lines = zip(_edges(a), _edges(gradient), strict=True)
  d = 'd' * (a.ndim - 5)
  found = []
  for c in (_WITHOUT_C, _WITH_C):
    neither, without_e = jnp.einsum(
      f'ecs{d}k,ecs{d}l->skl', *(x[:, c] for x in ends)
    )
    y, x = (product(*(x[:, c] for x in line)) for line in lines)
    found.append((neither, y, x, without_e))
  # Of all positions, less the others among them.
  both = plain - sum(found[0]), cells - plain - sum(found[1])
  return of_a, jnp.stack([
    one for edges, most in zip(found, both, strict=True)
    for one in (*edges[:3], most, edges[3])
  ])  # fmt: skip


linear.defvjp(lambda a, w: (linear(a, w), (a, w)), _linear_backward)


def _set(a: jax.Array, value: jax.Array, *start: int) -> jax.Array:
  start = (*start, *[0] * (a.ndim - len(start)))
  return jax.lax.dynamic_update_slice(a, value, start)


def _fitting(weights: Along, a: jax.Array) -> list[jax.Array]:
  """The weights with as many axes as an array: along C', X', Y' and E."""
  return [w.reshape(*w.shape, *[1] * (a.ndim - 4)) for w in weights]


@jax.custom_vjp
def _up(a: jax.Array, weights: Along) -> jax.Array:
  """Adds to each tensor of a part those with a part of its axes, weighted.

  Positions that stand for nothing may get something, which `norm` leaves out.
  """
  *along_axes, examples = _fitting(weights, a)
  a = _set(a, a[:, :, :1, :1] + examples * a[:1, :, :1, -1:])
  for axis, along in enumerate(along_axes, 1):
    a = a + along * jax.lax.slice_in_dim(a, 0, 1, axis=axis)
  return a


@jax.custom_vjp
def _down(a: jax.Array, weights: Along) -> jax.Array:
  """Adds to each tensor of a part those with more axes, weighted.

  It is `_up` transposed.
  """
  *along_axes, examples = _fitting(weights, a)
  for axis, along in reversed([*enumerate(along_axes, 1)]):
    more = (along * a).sum(axis, keepdims=True)
    a = _set(a, jax.lax.slice_in_dim(a, 0, 1, axis=axis) + more)
  more = (examples * a[:, :, :1, :1]).sum(0, keepdims=True)
  return _set(a, a[:1, :, :1, -1:] + more, 0, 0, 0, a.shape[3] - 1)


_up.defvjp(lambda a, w: (_up(a, w), w), lambda w, g: (_down(g, w), None))
_down.defvjp(lambda a, w: (_down(a, w), w), lambda w, g: (_up(g, w), None))


def share_up(p: Multi, scope: Frame) -> Multi:
  """Adds to each tensor those with a part of its axes."""
  n, d = parts(lambda a: _up(a, scope.sums), p)
  return once(Multi(n, d + n[..., None, :]), scope)


def once(x: Multi, scope: Frame) -> Multi:
  """The same, computed once on CPUs.

  XLA computes sums anew wherever they are made use of, but not quotients.
  """
  return parts(lambda a: a / scope.one, x)


def share_down(p: Multi, scope: Frame) -> Multi:
  """Adds to each tensor the means of those with more axes."""
  p = Multi(p.n + p.d.mean(-2), p.d)
  return parts(lambda a: _down(a, scope.means), p)
