"""Rotary positions (paper section 2, "Architecture details")."""

import chex
import jax.numpy as jnp
import numpy as np

ROPE_THETA = 10000.0


def rope_tables(length: int, head_size: int) -> tuple[np.ndarray, np.ndarray]:
  """cos and sin of the rotary angles, each float32 [T, K]."""
  exponents = np.arange(0, head_size, 2, dtype=np.float32) / head_size
  frequencies = (1.0 / ROPE_THETA**exponents).astype(np.float32)
  angles = np.outer(np.arange(length, dtype=np.float32), frequencies)
  angles = np.concatenate([angles, angles], axis=-1)
  return np.cos(angles), np.sin(angles)


def apply_rope(x: chex.Array, cos: np.ndarray, sin: np.ndarray) -> chex.Array:
  """Rotates queries or keys by their positions (half-rotation form).

  Args:
    x: array of any shape that ends in K.
    cos: table of `rope_tables`, with axes for what x has beside positions.
    sin: the same.
  """
  x32 = x.astype(jnp.float32)
  first, second = jnp.split(x32, 2, axis=-1)
  rotated = jnp.concatenate([-second, first], axis=-1)
  return (x32 * cos + rotated * sin).astype(x.dtype)
