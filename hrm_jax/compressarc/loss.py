"""CompressARC's loss and its two guesses (arXiv 2512.06104).

A grid's place on the array is not known to the network: both sum over all
places, and over all sizes where the size is not known either.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from hrm_jax.compressarc.network import Answer
from hrm_jax.compressarc.problem import Problem

# Nats of reconstruction for one of KL.
_RECONSTRUCTION = 10.0
# Steps over which places are softened at first.
_WARM_UP = 100
_NEVER = -1e30
# The moving average of what the network says, and how a guess is scored.
_DECAY = 0.97
_SCORE, _EARLY, _EARLY_STEPS, _AVERAGED = 10.0, 10.0, 150, 4.0


def inside(shape: chex.Array, X: int, Y: int) -> chex.Array:
  """Whether cells are in grids of these shapes [..., 2], bool [..., X, Y]."""
  height, width = shape[..., 0, None, None], shape[..., 1, None, None]
  return (jnp.arange(X)[:, None] < height) & (jnp.arange(Y) < width)


def _lines(
  mask: chex.Array, size: chex.Array, uncertain: chex.Array,
  limit: chex.Array, real: chex.Array, soft: chex.Numeric = 1,
) -> chex.Array:  # fmt: skip
  """What speaks for each length and offset of a grid along an axis.

  It is the sum of the mask inside less that outside. From `limit` on the mask
  is 1,000 less: what is the same for all lengths and offsets is left out.

  Args:
    mask: [X].
    size: int, length of the grid, the only one unless that is uncertain.
    uncertain: bool, whether it is.
    limit: int, the larger one of input and output along this axis.
    real: int, X without padding.
    soft: factor of all.

  Returns:
    [X, X], length - 1 and offset; those that do not fit are `_NEVER`.
  """
  most = len(mask)
  index = jnp.arange(most)
  mask = soft * jnp.where(index < real, mask, 0)
  cost = soft * jnp.where(index >= limit, 1000.0, 0.0).astype(mask.dtype)
  total = mask.sum()
  upto = jnp.concatenate([jnp.zeros(1, mask.dtype), jnp.cumsum(mask - cost)])
  end = index[:, None] + 1 + index
  inside = upto[jnp.minimum(end, most)] - upto[:-1]
  fits = (end <= real) & (uncertain | (index[:, None] + 1 == size))
  return jnp.where(fits, 2 * inside - total, _NEVER)


def _correlation(values: chex.Array, kernel: chex.Array) -> chex.Array:
  """The sum of values times kernel for each place of the kernel, [X, Y].

  Both are [K, X, Y]; beyond the border the values are 0.
  """
  K, X, Y = values.shape
  padded = jnp.pad(values, ((0, 0), (0, X), (0, 0)))
  # Row o of a tiling begins with entry o: windows without a gather.
  tiled = jnp.tile(padded, (1, X + 1, 1))[:, : X * (2 * X + 1)]
  windows = tiled.reshape(K, X, 2 * X + 1, Y)[:, :, :X]  # [K, o, a, Y]
  sums = jnp.einsum('koay,kab->oby', windows, kernel)
  # Sums along the diagonals y = o' + b, by the same trick.
  flat = jnp.pad(sums, ((0, 0), (0, 0), (0, Y))).reshape(X, 2 * Y * Y)
  flat = jnp.pad(flat, ((0, 0), (0, Y)))
  return flat.reshape(X, Y, 2 * Y + 1)[:, :, :Y].sum(1)


def reconstruction(
  answer: Answer, problem: Problem, step: chex.Array
) -> chex.Array:
  """Reconstruction error of all grids that are known, in nats."""
  E, X, Y, _ = problem.target.shape
  limits = problem.shape.max(axis=1)
  early = jnp.maximum(0, 1 - step / _WARM_UP)

  def grid(logits, rows, columns, target, shape, known, limit, uncertain):
    dtype = logits.dtype
    soft, sharp = (
      jnp.where(uncertain, base**early, 1).astype(dtype) for base in (0.01, 0.1)
    )

    def places(mask, size, limit, real):
      # Of no grid all is 0: nothing is left of `_NEVER` alone but rounding.
      found = _lines(mask, size, uncertain, limit, real, soft)
      found = jnp.where(known, found, 0)
      whole = jax.nn.logsumexp(found)
      own = found[size - 1]
      return jnp.where(own > _NEVER / 2, own - whole, _NEVER)

    u = places(rows, shape[0], limit[0], problem.sizes[2])
    v = places(columns, shape[1], limit[1], problem.sizes[3])
    colours = jnp.arange(logits.shape[0])[:, None, None]
    kernel = ((target == colours) & inside(shape, X, Y)).astype(dtype)
    wrong = jax.nn.logsumexp(logits, axis=0) - logits
    p = u[:, None] + v - _correlation(wrong, kernel)
    return jax.nn.logsumexp(sharp * p) / sharp

  example = jnp.arange(E)[:, None]
  known = example < jnp.stack([problem.sizes[0], problem.demonstrations])
  over_roles = jax.vmap(grid, (-1, -1, -1, -1, 0, 0, None, 0))
  log_p = jax.vmap(over_roles, (0, 0, 0, 0, 0, 0, 0, None))(
    *answer, problem.target, problem.shape, known, limits, problem.uncertain
  )
  return -jnp.where(known, log_p, 0).sum()


def objective(
  answer: Answer, kl: chex.Array, problem: Problem, step: chex.Array
) -> tuple[chex.Array, chex.Array]:
  """The loss, and the reconstruction error, in nats."""
  error = reconstruction(answer, problem, step)
  return kl + _RECONSTRUCTION * error, error


class Guess(NamedTuple):
  """Grids of the test outputs as an answer gives them."""

  grids: chex.Array  # int8 [tests, X, Y], index of the colour; 0 elsewhere
  shape: chex.Array  # int [tests, 2]
  uncertainty: chex.Array  # [], mean nats above the surest colour


def average(kept: Answer, now: Answer) -> Answer:
  """The moving average of what was said, from zero and not corrected."""
  return jax.tree.map(lambda a, b: _DECAY * a + (1 - _DECAY) * b, kept, now)


def guess(tests: Answer, problem: Problem) -> Guess:
  """Reads the test outputs from `tests`, which has these alone."""
  count, _, X, Y = tests.logits.shape
  place = problem.demonstrations + jnp.arange(count)
  shapes = jnp.take(problem.shape, place, axis=0, mode='clip')

  def read(logits, rows, columns, shape):
    limit = shape.max(axis=0)

    def line(mask, size, limit, real):
      # The first maximum: the shorter one, then the lower offset.
      best = _lines(mask, size, problem.uncertain[1], limit, real).argmax()
      return best // len(mask) + 1, best % len(mask)

    height, row = line(rows, shape[1, 0], limit[0], problem.sizes[2])
    width, column = line(columns, shape[1, 1], limit[1], problem.sizes[3])
    cells = logits.argmax(0).astype(jnp.int8)
    unsure = jax.nn.logsumexp(logits, axis=0) - logits.max(0)
    cells, unsure = (
      jnp.roll(a, (-row, -column), (0, 1)) for a in (cells, unsure)
    )
    found = jnp.stack([height, width])
    there = inside(found, X, Y)
    mean = jnp.where(there, unsure, 0).sum() / (height * width)
    return jnp.where(there, cells, 0), found, mean

  grids, shape, unsure = jax.vmap(read)(*tests, shapes)
  real = jnp.arange(count) < problem.sizes[0] - problem.demonstrations
  mean = jnp.where(real, unsure, 0).sum() / real.sum()
  return Guess(grids, shape, mean)


def score(uncertainty: chex.Array, step: chex.Array) -> chex.Array:
  """Scores of the two candidates: what is said now, and the average."""
  late = jnp.array([0, _AVERAGED], uncertainty.dtype)
  return (
    -_SCORE * uncertainty - jnp.where(step < _EARLY_STEPS, _EARLY, 0) - late
  )
