"""The table of puzzle embeddings, its rows split over the mesh.

A device has some of the rows and works on some of the batch. What they exchange
is of the batch's size, B · E, never of the table's. Inside
`sharding.over_rows`, arguments are a device's own parts.
"""

import chex
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from hrm_jax.parallel import sharding
from hrm_jax.training import optimizers


def num_rows(mesh: Mesh, identifiers: int) -> int:
  """Rows of a table with one for each identifier, and some unused.

  Each device has the same number of rows. It divides by a power of two, for
  which there are up to 1 % more: so a checkpoint can be cut into equal pieces,
  and some rows be read without all others.
  """
  parts = sharding.count(mesh, 'puzzles')
  own = -(-identifiers // parts)
  multiple = 2 ** max(0, own.bit_length() - 8)
  return -(-own // multiple) * multiple * parts


@jax.named_scope('table')
def lookup(table_RE: chex.Array, rows_B: chex.Array) -> chex.Array:
  """The embeddings [B, E] of these rows of the table."""
  axes = sharding.batch_axes()
  if not axes:
    return table_RE[rows_B]
  own = _own(table_RE, jax.lax.all_gather(rows_B, axes, tiled=True))
  found = table_RE.at[own].get(mode='fill', fill_value=0)
  # One device has the row, the others add zero.
  return jax.lax.psum_scatter(found, axes, scatter_dimension=0, tiled=True)


@jax.named_scope('table')
def update(
  table_RE: chex.Array,
  rows_B: chex.Array,
  gradients_BE: chex.Array,
  learning_rate: chex.Numeric,
  weight_decay: float,
  applied: chex.Array,
) -> chex.Array:
  """`optimizers.sign_sgd_rows`, with the rows of the global batch.

  Nothing is written unless `applied`, a bool [].
  """
  axes = sharding.batch_axes()
  if axes:
    rows_B = _own(table_RE, jax.lax.all_gather(rows_B, axes, tiled=True))
    gradients_BE = jax.lax.all_gather(gradients_BE, axes, tiled=True)
  # The scatter drops row R: no pass over the table, no arithmetic.
  rows_B = jnp.where(applied, rows_B, len(table_RE))
  return optimizers.sign_sgd_rows(
    table_RE, rows_B, gradients_BE, learning_rate, weight_decay
  )


def _own(table_RE: chex.Array, rows_B: chex.Array) -> chex.Array:
  """Where rows stand in this device's part; R where they stand elsewhere."""
  R = len(table_RE)
  own = rows_B - R * jax.lax.axis_index(sharding.batch_axes())
  return jnp.where((own >= 0) & (own < R), own, R)
