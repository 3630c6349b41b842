"""Random streams: functions of seed, name and step alone."""

import jax
import numpy as np

from hrm_jax.training import rngs


def _data(*arguments):
  return tuple(jax.random.key_data(rngs.stream_key(*arguments)).tolist())


def test_streams_differ_by_seed_name_and_step():
  keys = {
    _data(seed, name, step)
    for seed in (0, 1)
    for name in ('parameters', 'exploration')
    for step in (0, 1, 2)
  }
  assert len(keys) == 12


def test_a_traced_step_gives_the_same_key():
  traced = jax.jit(
    lambda step: jax.random.key_data(rngs.stream_key(0, 'exploration', step))
  )
  np.testing.assert_array_equal(traced(np.int32(5)), _data(0, 'exploration', 5))


def test_keys_are_the_same_in_every_process():
  # Written down once: a run that goes on in another process, on another day,
  # draws on. (Python's hash of a name would differ.)
  assert _data(0, 'exploration', 5) == (1131000070, 1331980899)
