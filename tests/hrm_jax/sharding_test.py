"""Which device holds which rows."""

import jax
import numpy as np
import pytest
from jax.sharding import AxisType

from hrm_jax import sharding
from hrm_jax.errors import ConfigError


def test_mesh_is_all_devices_along_the_batch():
  mesh = sharding.make_mesh()
  assert mesh.size == 8
  assert list(mesh.devices.flat) == jax.devices()
  assert mesh.axis_names == sharding.AXES
  # Under Explicit axes Linen's constraints do nothing.
  assert mesh.axis_types == (AxisType.Auto,) * 3


def test_mesh_of_some_devices():
  devices = jax.devices()[2:4]
  assert list(sharding.make_mesh(devices).devices.flat) == devices


@pytest.mark.parametrize('count', [1, 2, 8])
def test_global_batch_gives_each_device_its_rows(count):
  mesh = sharding.make_mesh(jax.devices()[:count])
  local = {
    'inputs': np.arange(24, dtype=np.int32).reshape(8, 3),
    'puzzle_identifiers': np.arange(8, dtype=np.int32) + 100,
  }
  batch = sharding.global_batch(mesh, local)
  assert batch.keys() == local.keys()
  for name, rows in local.items():
    np.testing.assert_array_equal(batch[name], rows)
    assert batch[name].dtype == np.int32
    shards = batch[name].addressable_shards
    assert [s.device for s in shards] == jax.devices()[:count]
    for i, shard in enumerate(shards):
      each = 8 // count
      np.testing.assert_array_equal(shard.data, rows[i * each : (i + 1) * each])


@pytest.mark.parametrize('count', [1, 8])
def test_one_process_feeds_all_rows(count):
  mesh = sharding.make_mesh(jax.devices()[:count])
  assert sharding.local_rows(mesh, 16) == slice(0, 16)


def test_replicated_is_a_whole_copy_on_each_device():
  mesh = sharding.make_mesh()
  array = jax.device_put(np.arange(5), sharding.replicated(mesh))
  assert len(array.addressable_shards) == 8
  for shard in array.addressable_shards:
    np.testing.assert_array_equal(shard.data, np.arange(5))


@pytest.mark.parametrize('batch_size', [0, -8, 4, 12])
def test_batch_that_devices_do_not_divide_is_named(batch_size):
  mesh = sharding.make_mesh()
  with pytest.raises(ConfigError, match=rf'rows={batch_size} .* 8 devices'):
    sharding.check_batch_size(mesh, batch_size, 'rows')


@pytest.mark.parametrize('batch_size', [8, 24])
def test_batch_that_devices_divide_is_fine(batch_size):
  sharding.check_batch_size(sharding.make_mesh(), batch_size, 'rows')
