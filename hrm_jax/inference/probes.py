"""What goes on inside of a model: its answers on the way, measures of papers.

What is counted over many rows is added up on the host, batch by batch: memory
does not grow with the rows.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from hrm_jax.inference import predict as inference
from hrm_jax.models import ReasoningModel
from hrm_jax.parallel import sharding
from hrm_jax.settings import ActSettings
from hrm_jax.training import act


class Trace(NamedTuple):
  """A batch of puzzles, segment by segment and update by update.

  The updates of a segment are those that `ModelSettings.update_levels` names.

  Attributes:
    tokens: uint8 [segments, updates, B, S], the answer at that moment; after an
      update of z_L it takes a provisional one of z_H, see `model.walk`.
    q: float32 [segments, B, 2], (q_halt, q_continue) after each segment.
    halts: bool [segments, B], whether `act.wants_halt` would end there.
    residuals: float32 [segments, updates, B], ‖z' − z‖ over [T, D] of the
      state that the update changed.
  """

  tokens: chex.Array
  q: chex.Array
  halts: chex.Array
  residuals: chex.Array


def sharded_trace(
  model: ReasoningModel, settings: ActSettings, segments: int, mesh: Mesh
) -> Callable[[Any, chex.Array, chex.Array], Trace]:
  """The jitted function of variables, puzzles and inputs that gives a `Trace`.

  No state is kept but the last one, and no row halts: `segments` may exceed
  `halt_max_steps`. The mesh must divide the rows; the trace comes whole.
  """

  def trace(variables, puzzles_BE, inputs_BS):
    def look(before, after, answering):
      logits, _ = model.apply(variables, answering, method='heads')
      # The other state did not change.
      squares = [
        jnp.sum(jnp.square(new.astype(jnp.float32) - old), axis=(1, 2))
        for new, old in zip(after, before, strict=True)
      ]
      tokens = jnp.argmax(logits, axis=-1).astype(jnp.uint8)
      return tokens, jnp.sqrt(sum(squares))

    def segment(z, _):
      z, (tokens, residuals) = model.apply(variables, z, x, look, method='walk')
      _, q = model.apply(variables, z, method='heads')
      return z, Trace(tokens, q, act.wants_halt(settings, q), residuals)

    x = model.apply(variables, inputs_BS, puzzles_BE, method='embed')
    z = model.apply(variables, len(inputs_BS), method='initial_state')
    return jax.lax.scan(segment, z, length=segments)[1]

  split = sharding.by_batch(mesh)
  whole = sharding.replicated(mesh)
  return sharding.jitted(mesh, trace, (split, split), whole)


class Scatter(NamedTuple):
  """Number of vectors [], their mean [D], Σ(x − mean)(x − mean)ᵀ [D, D]."""

  count: chex.Array
  mean: chex.Array
  products: chex.Array


def scatter(x_BTD: chex.Array, counted_B: chex.Array) -> Scatter:
  """The scatter, in float32, of the rows' B · T vectors; one row must count."""
  chex.assert_rank(x_BTD, 3)
  x, counted = x_BTD.astype(jnp.float32), counted_B.astype(jnp.float32)
  count = jnp.sum(counted) * x.shape[1]
  mean = jnp.einsum('b,btd->d', counted, x, precision='highest') / count
  # About the mean before they are squared: float32 has no digits to waste.
  x = (x - mean) * counted[:, None, None]
  products = jnp.einsum('bti,btj->ij', x, x, precision='highest')
  return Scatter(count, mean, products)


class Moments:
  """Mean and covariance of vectors that come in parts, in float64.

  Parts are put together as in Chan, Golub and LeVeque (1979): sums of squares
  are only ever taken about a mean.
  """

  def __init__(self):
    self.count = 0.0
    self._mean = self._products = np.zeros(())

  def add(self, part: Scatter) -> None:
    """Takes the vectors of `scatter`."""
    count, mean, products = (np.asarray(x, np.float64) for x in part)
    total = self.count + count
    shift = mean - self._mean
    between = np.outer(shift, shift) * (self.count * count / total)
    self._products = self._products + products + between
    self._mean = self._mean + shift * (count / total)
    self.count = float(total)

  @property
  def covariance(self) -> np.ndarray:
    """Float64 [D, D], of all vectors so far (divided by their count)."""
    return self._products / self.count


def participation_ratio(covariance_DD: np.ndarray) -> float:
  """PR = (Σλ)² / Σλ² over the eigenvalues λ of a covariance.

  From 1, where the vectors lie on a line, to D, where they spread equally in
  all directions; NaN where they do not spread (HRM paper, section 4). The sums
  are the trace of the covariance and of its square: none is decomposed.
  """
  squares = float(np.sum(np.square(covariance_DD))) or np.nan
  return float(np.trace(covariance_DD)) ** 2 / squares


# By state and by pooling.
StateMoments = dict[str, dict[str, Moments]]


def sharded_state_moments(
  model: ReasoningModel, segments: int, mesh: Mesh
) -> Callable[[Any, chex.Array, chex.Array, chex.Array, StateMoments], None]:
  """The function that adds a batch's states to their moments.

  `measure(variables, puzzles_BE, inputs_BS, counted_B, moments)` works on the
  rows for so many segments. To `moments['z_L']['tokens']` and so on, made where
  they are missing, it adds z_L after each of its updates and z_H after each of
  its own: a row's trajectory, the initial state left out. The mesh must divide
  the rows; rows that `counted_B` (bool) leaves out fill up a batch.
  """

  def start(variables, puzzles, inputs):
    x = model.apply(variables, inputs, puzzles, method='embed')
    return model.apply(variables, len(inputs), method='initial_state'), x

  def segment(variables, z, x, counted):
    def look(before, after, answering):
      return {
        name: {
          'tokens': scatter(state, counted),
          'mean_token': scatter(jnp.mean(state, 1, keepdims=True), counted),
        }
        for name, state in after._asdict().items()
      }

    return model.apply(variables, z, x, look, method='walk')

  split, whole = sharding.by_batch(mesh), sharding.replicated(mesh)
  start = jax.jit(start, in_shardings=(None, split, split), out_shardings=split)
  segment = sharding.jitted(
    mesh, segment, (split, split, split), (split, whole), donate_argnums=1
  )

  def measure(variables, puzzles_BE, inputs_BS, counted_B, moments):
    z, x = start(variables, puzzles_BE, inputs_BS)
    for _ in range(segments):
      z, seen = segment(variables, z, x, counted_B)
      for state, pooled in jax.device_get(seen).items():
        for pooling, found in pooled.items():
          sums = moments.setdefault(state, {}).setdefault(pooling, Moments())
          for update, level in enumerate(model.settings.update_levels):
            if state == f'z_{level}':
              sums.add(Scatter(*(leaf[update] for leaf in found)))

  return measure


class Walk(NamedTuple):
  """What rows answer after each segment, leaves [segments, B, ...].

  `halts` tells whether `act.wants_halt` would end there.
  """

  found: inference.Predictions
  halts: chex.Array


def sharded_walk(
  model: ReasoningModel, settings: ActSettings, segments: int, mesh: Mesh
) -> Callable[[Any, chex.Array, act.Batch], Walk]:
  """The jitted `walk(variables, table, batch)`: rows worked on, none halting.

  After segment k it has what `inference.sharded_predict` gives in mode 'fixed'
  with k segments, for every k at the price of the last. There may be more than
  `halt_max_steps`; the mesh must divide the rows.
  """

  def walk(variables, table, batch):
    size = len(batch['inputs'])
    x = inference.embed(model, variables, table, batch)

    def segment(z, number):
      z = model.apply(variables, z, x, method='segment_without_gradient')
      # Answers are read beside the segment, and change nothing in how it is
      # computed: sums stay those of `sharded_predict`.
      logits, q = model.apply(
        variables, jax.lax.optimization_barrier(z), method='heads'
      )
      steps = jnp.full(size, number + 1)
      found = inference.answers(logits, q, steps, batch['labels'])
      return z, Walk(found, act.wants_halt(settings, q))

    z = model.apply(variables, size, method='initial_state')
    return jax.lax.scan(segment, z, jnp.arange(segments))[1]

  inputs = sharding.place(mesh, 'puzzles'), sharding.by_batch(mesh)
  return sharding.jitted(mesh, walk, inputs, sharding.replicated(mesh))


def steps_to_halt(halts_KB: np.ndarray, halt_max_steps: int) -> np.ndarray:
  """Segments until each row's own first halt, at most so many; int [B]."""
  halts = halts_KB[:halt_max_steps]
  return np.where(halts.any(axis=0), halts.argmax(axis=0) + 1, halt_max_steps)


class Calibration:
  """How well confidences tell the chance of being right, in equal bins.

  Bin b of B is [b / B, (b + 1) / B), the last with its end. Of each there are
  the `count` of its rows, the sum of their `confidence`, and how many are
  `right`, [B] each.
  """

  def __init__(self, bins: int = 10):
    self.bins = bins
    self.count = np.zeros(bins, np.int64)
    self.confidence = np.zeros(bins)
    self.right = np.zeros(bins, np.int64)

  def add(self, confidence: np.ndarray, right: np.ndarray) -> None:
    """Takes rows: confidences in [0, 1], and whether they were right."""
    confidence = np.asarray(confidence, np.float64)
    index = np.minimum((confidence * self.bins).astype(int), self.bins - 1)
    np.add.at(self.count, index, 1)
    np.add.at(self.confidence, index, confidence)
    np.add.at(self.right, index, np.asarray(right, np.int64))

  @property
  def error(self) -> float:
    """ECE = Σ_b n_b / n · |right_b / n_b − confidence_b / n_b|; NaN of no rows.

    The expected calibration error of Guo et al. (arXiv 1706.04599).
    """
    total = self.count.sum() or np.nan
    return float(np.abs(self.right - self.confidence).sum() / total)
