"""The size of the table; its rows are tested in train_step_test.py."""

import jax
import pytest

from hrm_jax.parallel import sharding
from hrm_jax.training import puzzle_table


@pytest.mark.parametrize('devices', [1, 2, 8])
@pytest.mark.parametrize(
  'identifiers', [1, 7, 100, 255, 2_527, 65_537, 876_408, 876_409, 2_000_003]
)
def test_rows_divide_with_few_to_spare(devices, identifiers):
  mesh = sharding.make_mesh(jax.devices()[:devices])
  rows = puzzle_table.num_rows(mesh, identifiers)
  own = rows // devices
  assert own * devices == rows >= identifiers
  if own <= 256:
    assert rows - identifiers < devices
  else:
    assert rows < 1.01 * identifiers
    # In at most so many equal pieces, or twice as many, or half.
    assert own % (2 ** (own.bit_length() - 8)) == 0
