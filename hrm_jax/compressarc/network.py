"""CompressARC's network: latents, layers, heads (arXiv 2512.06104).

All functions are of one task and pure; `jax.vmap` makes them of many.
"""

import itertools
import math
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from hrm_jax.compressarc import multitensor
from hrm_jax.compressarc.multitensor import (
  DIRECTIONS,
  KINDS,
  TIED,
  Frame,
  Multi,
  linear,
  norm,
  parts,
  spread,
)

LAYERS = 4
LATENT_CHANNELS = 4
# Width of the residual stream without and with directions.
_WIDTHS = Multi(16, 8)
# Width of what the layers compute in between.
_UP, _SOFTMAX, _MOVED, _SILU, _DOWN = 16, 2, 4, 16, 8
# Steps of the eight directions in rows and columns.
STEPS = ((1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1))
# Weights of a direction's neighbours, by how far they are turned.
_NEIGHBOURS = (1, 0.2, 0.4, 0.2, 1, 0.2, 0.4, 0.2)
# Outside of the grids, for running maxima.
_FAR = 1000.0
# Outside of the arrays' real part, for softmax.
_NOTHING = -1e9

# The backward pass computes it anew: one array less is kept.
_silu = jax.checkpoint(jax.nn.silu, prevent_cse=False)

# Axes of the arrays.
_AXES = {'C': 1, 'X': 2, 'Y': 3, 'D': 4}


def subsets(axes: str) -> list[str]:
  """All sets of axes but the empty one, by size and then in their order."""
  return [
    ''.join(some)
    for size in range(1, 1 + len(axes))
    for some in itertools.combinations(axes, size)
  ]


def _nested(axes: str) -> list[str]:
  """The same sets, first those with the last axis, and so on among them.

  So of all that have this axis sums along it are one sum.
  """
  if not axes:
    return []
  less, last = _nested(axes[:-1]), axes[-1]
  return [*(''.join(sorted(some + last)) for some in less), last, *less]


# What softmax is over.
SUBSETS = Multi(tuple(subsets('CXY')), tuple(subsets('CDXY')))


class Latents(NamedTuple):
  """What the network is told of a task, in nats that are counted."""

  mean: Multi  # [..., 4]
  adjustment: Multi  # [..., 4]
  capacity: Multi  # [KINDS, 4]


class Pair(NamedTuple):
  """Weights into and out of a residual layer, [KINDS, K, L] of each part.

  Those of kinds that are tied to another are not used.
  """

  into: Any
  out: Any


class Layer(NamedTuple):
  """Weights of a layer; all have a first axis of the layers in `Weights`.

  The shapes are those of what is trained; `linear` takes what `_by_kind` makes
  of them.
  """

  share_up: Pair
  softmax: Pair  # out: [KINDS, SUBSETS, 2, L]
  cummax: Pair  # [2, K, L], by whether a tensor has C
  shift: Pair  # likewise
  direction_share: chex.Array  # [KINDS, 18, R, R]
  nonlinear: Pair
  share_down: Pair


class Weights(NamedTuple):
  """All that is trained but the latents."""

  decode: Multi  # [KINDS, 4, R]
  decode_bias: Multi  # [KINDS, R]
  layers: Layer
  head: chex.Array  # [16, 2]
  head_bias: chex.Array  # [2]
  masks: chex.Array  # [16, 2]
  masks_bias: chex.Array  # [2]


def decode(
  latents: Latents, weights: Weights, scope: Frame, noise: Multi
) -> tuple[Multi, Multi]:
  """Draws the residual stream from the latents.

  Returns:
    The stream, and the KL divergence of each tensor in nats, [KINDS].
  """

  def draw(mean, adjustment, capacity, mask, count, noise):
    along = jnp.maximum(count, 1)[:, None]
    n, t = LATENT_CHANNELS * along, 10 * capacity
    adjustment = jnp.where(mask, adjustment, 0)
    adjustment -= spread(multitensor.by_kind(adjustment) / along, mean)
    nats = 1e4 * jnp.exp(spread(t, mean) + adjustment) + 0.5
    rate = nats / spread(n, mean)
    keep = jnp.exp(-rate)
    tell = jnp.sqrt(-jnp.expm1(-2 * rate))
    known = norm(mean, mask, count)
    whole = -jnp.expm1(-2 * (1e4 * jnp.exp(t) + 0.5) / n)
    z = spread(whole, mean) * (tell * known + keep * noise)
    kl = 0.5 * (keep**2 + (1 - keep**2) * known**2 - 1) + rate
    kl = multitensor.by_kind(jnp.where(mask, kl, 0)).sum(-1)
    return jnp.where(mask, z, 0), kl

  drawn = parts(draw, *latents, scope.masks, scope.counts, noise)
  z, kl = (Multi(*(part[i] for part in drawn)) for i in (0, 1))

  def biased(a, bias, mask):
    return jnp.where(mask, a + spread(bias[TIED], a), 0)

  x = parts(linear, z, _tied(weights.decode))
  return parts(biased, x, weights.decode_bias, scope.masks), kl


def layer(x: Multi, weights: Layer, scope: Frame) -> Multi:
  """The residual stream after one layer, with weights as of `_by_kind`.

  Where there is nothing x is 0, and so is each change: of 0 all of them make 0.
  """

  def add(x: Multi, change: Multi) -> Multi:
    return multitensor.once(parts(jnp.add, x, change), scope)

  def normed(a: Multi) -> Multi:
    return parts(norm, a, scope.masks, scope.counts)

  up = multitensor.share_up(parts(linear, x, weights.share_up.into), scope)
  x = add(x, parts(linear, normed(up), weights.share_up.out))
  scores = parts(linear, x, weights.softmax.into)
  chances = parts(_softmax, scores, scope.masks)
  x = add(x, parts(linear, chances, weights.softmax.out))
  for function, pair in ((_cummax, weights.cummax), (_shift, weights.shift)):
    x = x._replace(d=x.d + _moved(function, x.d, pair, scope))
  z = norm(x.d, scope.masks.d, scope.counts.d)
  flat = z.reshape(*z.shape[:-2], -1)
  shared = linear(flat, weights.direction_share)
  x = x._replace(d=x.d + shared.reshape(z.shape))
  hidden = parts(_silu, parts(linear, x, weights.nonlinear.into))
  x = add(x, parts(linear, hidden, weights.nonlinear.out))
  down = parts(linear, x, weights.share_down.into)
  down = multitensor.share_down(down, scope)
  x = add(x, parts(linear, normed(down), weights.share_down.out))
  return normed(x)


def _of_sets(weights: chex.Array, sets: list[str]) -> chex.Array:
  """Softmax's [..., KINDS, sets, 2, L] → [..., KINDS, 2 sets, L], as `_nested`.

  For a tensor with Y alone X stands in Y's place.
  """
  swap = str.maketrans('XY', 'YX')
  swapped = [
    sets.index(''.join(sorted(s.translate(swap), key='CDXY'.index)))
    for s in sets
  ]
  place = TIED[:, None] * len(sets) + np.arange(len(sets))
  place[[1, 6]] = TIED[[1, 6], None] * len(sets) + np.array(swapped)
  nested = _nested('CXYD' if 'D' in sets else 'CXY')
  place = place[:, [sets.index(one) for one in nested]]
  outer, inner = weights.shape[:-4], weights.shape[-2:]
  flat = weights.reshape(*outer, -1, *inner)
  found = jnp.take(flat, place.astype(np.int32), axis=len(outer))
  return found.reshape(*outer, KINDS, -1, inner[-1])


@jax.custom_vjp
def _softmax(scores: chex.Array, mask: chex.Array) -> chex.Array:
  """Softmax over each set of a tensor's axes, 0 where it lacks one of them.

  Args:
    scores: [E, C', X', Y', (8,) K].
    mask: bool, the real positions.

  Returns:
    [E, C', X', Y', (8,) sets · K], the sets of axes as of `_nested`.
  """
  return _softmax_forward(scores, mask)[0]


# Entries along each axis, without the slots beside them.
_SPANS = {'C': (1, None), 'X': (1, None), 'Y': (1, -1), 'D': (0, None)}


def _log_sum(scores: chex.Array, letter: str) -> chex.Array:
  """The logarithm of the sum of exponentials along an axis, kept as one."""
  axis = _AXES[letter]
  part = jax.lax.slice_in_dim(scores, *_SPANS[letter], axis=axis)
  most = part.max(axis, keepdims=True)
  return jnp.log(jnp.exp(part - most).sum(axis, keepdims=True)) + most


def _softmax_forward(scores, mask):
  scores, found = jnp.where(mask, scores, _NOTHING), list[chex.Array]()

  def add(axes, logs, real):
    # With the last axis, and among those what the others make of its sums.
    if not axes:
      return
    last = axes[-1]
    entries = np.zeros(scores.shape[_AXES[last]], bool)
    entries[slice(*_SPANS[last])] = True
    others = [i for i in range(scores.ndim) if i != _AXES[last]]
    own = real & np.expand_dims(entries, others)
    over = _log_sum(logs, last)
    add(axes[:-1], over, own)
    found.append(jnp.where(own, jnp.exp(scores - over), 0))
    add(axes[:-1], logs, real)

  add(_axes(scores), scores, mask)
  # In two moves: XLA is slow to lay arrays of few channels side by side.
  out = jnp.moveaxis(jnp.stack(found), 0, -2)
  out = out.reshape(*scores.shape[:-1], -1)
  return out, out


def _axes(a: chex.Array) -> str:
  """Axes that softmax is over, of an array of either part."""
  return 'CXYD' if a.ndim == 6 else 'CXY'


def _softmax_backward(out, gradient):
  axes = _axes(out)
  K = out.shape[-1] // len(_nested(axes))

  def sums(axes, a):
    """Sums over each set, of its channels; along the last axis at once."""
    if not axes:
      return []
    count = K * (1 + len(_nested(axes[:-1])))
    own = a[..., :count].sum(_AXES[axes[-1]], keepdims=True)
    return [
      *sums(axes[:-1], own[..., :-K]), own[..., -K:],
      *sums(axes[:-1], a[..., count:]),
    ]  # fmt: skip

  total = jnp.zeros((), out.dtype)
  for i, mean in enumerate(sums(axes, out * gradient)):
    p, g = (a[..., K * i : K * (i + 1)] for a in (out, gradient))
    total = total + p * (g - mean)
  return total, None


_softmax.defvjp(_softmax_forward, _softmax_backward)


def _moved(function, d: chex.Array, weights: Pair, scope: Frame) -> chex.Array:
  """A residual layer that moves values in their directions, for cells."""
  inside = scope.inside[:, None, :, :, None, None]

  values = linear(d[:, :, 1:, 1:-1], weights.into) * inside
  # Channels 1 and 3 move the opposite way: as those of the opposite direction.
  half = DIRECTIONS // 2
  values = jnp.concatenate(
    [values[..., ::2], jnp.roll(values[..., 1::2], half, -2)], -1
  )
  found = function(values, inside)
  found = jnp.concatenate(
    [found[..., :2], jnp.roll(found[..., 2:], half, -2)], -1
  )
  pad = ((0, 0), (0, 0), (1, 0), (1, 1), (0, 0), (0, 0))
  found = norm(jnp.pad(found, pad), scope.masks.d, scope.counts.d)
  return linear(found, weights.out)


def _shift(values: chex.Array, inside: chex.Array) -> chex.Array:
  """Moves each direction's slice by its step."""
  del inside
  slices = []
  for direction, (rows, columns) in enumerate(STEPS):
    one = values[..., direction, :]
    for axis, step in ((2, rows), (3, columns)):
      one = _before(one, step, 0, axis)
    slices.append(one)
  return jnp.stack(slices, axis=-2)


@jax.custom_vjp
def _cummax(values: chex.Array, inside: chex.Array) -> chex.Array:
  """Running maxima along the lines, relative to the line's extremes."""
  return _cummax_forward(values, inside)[0]


def _before(a: chex.Array, step: int, fill: float, axis: int = 2) -> chex.Array:
  """The entries so many steps earlier along an axis, or later if < 0."""
  # Cut first: XLA writes whole what is padded and cut at once.
  size, later = a.shape[axis], max(-step, 0)
  kept = jax.lax.slice_in_dim(a, later, size - max(step, 0), axis=axis)
  pad = [(0, 0, 0)] * a.ndim
  pad[axis] = (max(step, 0), later, 0)
  return jax.lax.pad(kept, jnp.asarray(fill, a.dtype), pad)


def _running(a: chex.Array) -> tuple[chex.Array, list[chex.Array]]:
  """Running maxima, and those of the last 1, 2, 4, … entries."""
  found = list[chex.Array]()
  while 1 << len(found) < a.shape[2]:
    found.append(a)
    a = jnp.maximum(a, _before(a, 1 << (len(found) - 1), -np.inf))
  return a, found


# Directions whose lines are columns, rows, and the two kinds of diagonals: the
# first goes along the line, the second against it (see `_lines`).
_ALONG = ((0, 4), (2, 6), (7, 3), (5, 1))
_EVEN = (np.arange(DIRECTIONS) % 2 == 0)[:, None]
# How far below the extremes zero is, and what their distance gains, of lines.
_STRAIGHT = _EVEN[np.array(_ALONG).T.ravel()]
_BELOW, _APART = 1e-3 * _STRAIGHT, np.where(_STRAIGHT, 2e-3, 1e-5)


def _extremes(values, far):
  """Of lines: highest and lowest entry, and the distances from there."""
  high = (values - far).max(2, keepdims=True)
  low = (values + far).min(2, keepdims=True)
  return high, low, high - low + 2 * far + _APART.astype(values.dtype)


def _cummax_forward(values, inside):
  X, Y = values.shape[2:4]
  far = _lines(_FAR * (1 - jnp.broadcast_to(
    inside, (*inside.shape[:4], DIRECTIONS, 1)
  )), -_NOTHING)  # fmt: skip
  lines = _lines(values, 0)
  _, low, apart = _extremes(lines, far)
  running, _ = _running(lines - far)
  part = (running - low + 2 * far + _BELOW.astype(lines.dtype)) / apart
  out = _cells(2 * part - 1, X, Y) * jnp.where(_EVEN, 1, inside)
  return out, (lines, far, part, inside)


def _cummax_backward(kept, gradient):
  lines, far, part, inside = kept
  high, low, apart = _extremes(lines, far)
  gradient = _lines(2 * gradient * jnp.where(_EVEN, 1, inside), 0) / apart
  of_apart = -gradient * part
  of_high = of_apart.sum(2, keepdims=True)
  of_low = -of_high - gradient.sum(2, keepdims=True)
  _, levels = _running(lines - far)
  for i, level in reversed([*enumerate(levels)]):
    own = level >= _before(level, 1 << i, -np.inf)
    gradient = jnp.where(own, gradient, 0) + _before(
      jnp.where(own, 0, gradient), -(1 << i), 0
    )
  gradient = gradient + jnp.where(lines - far == high, of_high, 0)
  gradient = gradient + jnp.where(lines + far == low, of_low, 0)
  return _cells(gradient, *inside.shape[2:4]), None


_cummax.defvjp(_cummax_forward, _cummax_backward)


def _lines(a: chex.Array, fill: float) -> chex.Array:
  """Lays the lines of each direction along one axis, in the line's order.

  Returns:
    [E, C', longest line, lines, 8, K], `fill` where there is nothing.
  """
  X, Y = a.shape[2:4]
  size, lines = max(X, Y), X + Y - 1
  none = jnp.asarray(fill, a.dtype)

  def padded(one, rows, columns):
    pad = [(0, 0, 0)] * 6
    pad[2], pad[3] = (0, rows, 0), (0, columns, 0)
    return jax.lax.pad(one, none, pad)

  def skewed(one):
    """Cell x, y to x, x + y, by rows that become one shorter."""
    one = padded(one, 0, X)
    one = one.reshape(*one.shape[:2], -1, *one.shape[4:])
    return one[:, :, : X * lines].reshape(
      *one.shape[:2], X, lines, *one.shape[3:]
    )

  columns, rows, falling, rising = (
    jnp.stack([a[..., i, :] for i in pair], axis=-2) for pair in _ALONG
  )
  found = [
    padded(columns, size - X, lines - Y),
    padded(jnp.swapaxes(rows, 2, 3), size - Y, lines - X),
    padded(skewed(falling), size - X, 0),
    padded(skewed(jnp.flip(rising, 2)), size - X, 0),
  ]
  along = jnp.stack([one[..., 0, :] for one in found], axis=-2)
  against = jnp.stack([one[..., 1, :] for one in found], axis=-2)
  return jnp.concatenate([along, jnp.flip(against, 2)], axis=-2)


def _cells(a: chex.Array, X: int, Y: int) -> chex.Array:
  """The inverse of `_lines`, [E, C', X, Y, 8, K]."""
  along, against = jnp.split(a, 2, axis=-2)
  against = jnp.flip(against, 2)

  def straight(one):
    one = one[:, :, :X].reshape(*one.shape[:2], -1, *one.shape[4:])
    pad = [(0, 0)] * one.ndim
    pad[2] = (0, X)
    one = jnp.pad(one, pad)
    return one.reshape(*one.shape[:2], X, X + Y, *one.shape[3:])[:, :, :, :Y]

  found: list[Any] = [None] * DIRECTIONS
  for i, pair in enumerate(_ALONG):
    for side, direction in zip((along, against), pair, strict=True):
      one = side[..., i, :]
      match i:
        case 0:
          one = one[:, :, :X, :Y]
        case 1:
          one = jnp.swapaxes(one[:, :, :Y, :X], 2, 3)
        case 2:
          one = straight(one)
        case 3:
          one = jnp.flip(straight(one), 2)
      found[direction] = one
  return jnp.stack(found, axis=-2)


def _representatives(spatial: bool) -> np.ndarray:
  """[8, 8]: which matrix is that of directions d and e."""
  found = {}
  for d, e in itertools.product(range(8), repeat=2):
    one = d, e
    if not spatial:
      turn = 2 * (d // 2)
      one = d - turn, (e - turn) % 8
      if (one[1] - one[0]) % 8 > 4:
        one = one[0], (2 * one[0] - one[1]) % 8
    else:
      if d > 4 or (d in (0, 4) and e > 4):
        one = -d % 8, -e % 8
      if one[0] in (3, 4, 5) or (one[0] in (2, 6) and one[1] in (3, 4, 5)):
        one = (4 - one[0]) % 8, (4 - one[1]) % 8
    found[d, e] = one
  order = sorted(set(found.values()))
  return np.array(
    [[order.index(found[d, e]) for e in range(8)] for d in range(8)]
  )


_TURNS, _MIRRORS = _representatives(False), _representatives(True)
# [KINDS, 8, 8]: the matrix of each kind that is that of directions d and e. A
# tensor with Y alone has those of that with X, turned by a quarter.
_QUARTER = (np.arange(DIRECTIONS) + 2) % DIRECTIONS
MATRICES = np.stack(
  [_TURNS, _MIRRORS[_QUARTER][:, _QUARTER], _MIRRORS, _TURNS, _TURNS] * 2
)


def _direction_matrix(weights: chex.Array) -> chex.Array:
  """[..., KINDS, 18, R, R] → [..., KINDS, 8 R, 8 R], all directions to all."""
  turned = np.arange(DIRECTIONS) - np.arange(DIRECTIONS)[:, None]
  near = np.array(_NEIGHBOURS)[turned % DIRECTIONS]
  # [KINDS, d, e, matrix], by whether it is theirs, times the weight.
  which = near[..., None] * (MATRICES[..., None] == np.arange(18))
  full = jnp.einsum(
    'tdem,...tmkl->...tekdl',
    which.astype(weights.dtype),
    jnp.take(weights, TIED, axis=-4),
  )
  size = DIRECTIONS * weights.shape[-1]
  return full.reshape(*full.shape[:-5], KINDS, size, size)


def _tied(weights: Any) -> Any:
  """Arrays [..., KINDS, K, L], of each kind those that it is tied to."""
  return jax.tree.map(lambda w: jnp.take(w, TIED, axis=-3), weights)


def _by_kind(layers: Layer) -> Layer:
  """The layers with their weights as `linear` takes them, of each kind."""
  return layers._replace(
    share_up=_tied(layers.share_up),
    softmax=Pair(
      _tied(layers.softmax.into), parts(_of_sets, layers.softmax.out, SUBSETS)
    ),
    direction_share=_direction_matrix(layers.direction_share),
    nonlinear=_tied(layers.nonlinear),
    share_down=_tied(layers.share_down),
  )


class Answer(NamedTuple):
  """What the network says of all grids."""

  logits: chex.Array  # [E, 1 + C, X, Y, 2]
  rows: chex.Array  # [E, X, 2], larger inside of the grid
  columns: chex.Array  # [E, Y, 2]


def heads(x: Multi, weights: Weights, colours: chex.Array) -> Answer:
  """Reads colours and sizes; `colours` is how many there are without black."""
  logits = x.n[:, 1:, 1:, 1:-1] @ weights.head + 100 * weights.head_bias
  logits = jnp.pad(logits, ((0, 0), (1, 0), (0, 0), (0, 0), (0, 0)))
  real = np.arange(logits.shape[1])[:, None, None, None] <= colours
  logits = jnp.where(real, logits, _NOTHING)
  rows = x.n[:, 0, 1:, 0] @ weights.masks + weights.masks_bias
  columns = x.n[:, 0, 0, 1:-1] @ weights.masks + weights.masks_bias
  return Answer(logits, rows, columns)


def forward(
  latents: Latents, weights: Weights, scope: Frame, colours: chex.Array,
  noise: Multi, remat: bool = False,
) -> tuple[Answer, Multi]:  # fmt: skip
  """One pass: what the network says, and the KL of each tensor in nats.

  With `remat` the backward pass computes layers anew instead of keeping them.
  """
  x, kl = decode(latents, weights, scope, noise)

  layers = _by_kind(weights.layers)

  def body(x, weights):
    return layer(x, weights, scope), None

  x, _ = jax.lax.scan(jax.checkpoint(body) if remat else body, x, layers)
  return heads(x, weights, colours), kl


def initial_weights(
  random: np.random.Generator, dtype: Any = np.float32
) -> Weights:
  """Draws all weights: N(0, 1) / √inputs."""

  def draw(*shape, inputs):
    return (random.standard_normal(shape) / math.sqrt(inputs)).astype(dtype)

  def multi(into, out, layers=(LAYERS,)):
    return parts(lambda i, o: draw(*layers, KINDS, i, o, inputs=i), into, out)

  def pair(width):
    inner = Multi(width, width)
    return Pair(multi(_WIDTHS, inner), multi(inner, _WIDTHS))

  def cells(width):
    return Pair(
      draw(LAYERS, 2, _WIDTHS.d, width, inputs=_WIDTHS.d),
      draw(LAYERS, 2, width, _WIDTHS.d, inputs=width),
    )

  # How many of C, X and Y a tensor of each kind has.
  axes = np.array([c + space for c in (0, 1) for space in (0, 1, 1, 2, 0)])

  def of_sets(sets, R, with_d):
    count = np.maximum(2.0 ** (axes + with_d) - 1, 1).astype(dtype)
    drawn = draw(LAYERS, KINDS, len(sets), _SOFTMAX, R, inputs=_SOFTMAX)
    return drawn / np.sqrt(count)[:, None, None, None]

  R, latent = _WIDTHS.d, Multi(LATENT_CHANNELS, LATENT_CHANNELS)
  return Weights(
    decode=multi(latent, _WIDTHS, ()),
    decode_bias=parts(
      lambda r: draw(KINDS, r, inputs=LATENT_CHANNELS), _WIDTHS
    ),
    layers=Layer(
      share_up=pair(_UP),
      softmax=Pair(
        multi(_WIDTHS, Multi(_SOFTMAX, _SOFTMAX)),
        parts(of_sets, SUBSETS, _WIDTHS, Multi(0, 1)),
      ),
      cummax=cells(_MOVED),
      shift=cells(_MOVED),
      direction_share=draw(LAYERS, KINDS, 18, R, R, inputs=R),
      nonlinear=pair(_SILU),
      share_down=pair(_DOWN),
    ),
    head=np.tile(draw(_WIDTHS.n, 1, inputs=_WIDTHS.n), (1, 2)),
    head_bias=draw(2, inputs=_WIDTHS.n),
    masks=draw(_WIDTHS.n, 2, inputs=_WIDTHS.n),
    masks_bias=draw(2, inputs=_WIDTHS.n),
  )
