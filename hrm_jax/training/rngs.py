"""Random streams by name. Nothing random is ever stored in the state."""

import zlib

import chex
import jax


def stream_key(seed: int, name: str, step: chex.Numeric = 0) -> chex.PRNGKey:
  """The key of stream `name` at `step`: a function of its arguments alone."""
  stream = jax.random.fold_in(
    jax.random.key(seed), zlib.crc32(name.encode()) & 0x7FFFFFFF
  )
  return jax.random.fold_in(stream, step)
