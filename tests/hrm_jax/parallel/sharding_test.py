"""Which device holds which rows."""

import jax
import numpy as np
import pytest
from jax.sharding import AxisType

from data_pipelines.errors import ConfigError
from hrm_jax.parallel import sharding
from hrm_jax.settings import MeshSettings


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


@pytest.mark.parametrize(
  'settings, shape',
  [
    ({}, (8, 1, 1)),
    ({'fsdp': 4}, (2, 4, 1)),
    ({'data': 1, 'fsdp': -1, 'tensor': 2}, (1, 4, 2)),
    ({'data': 2, 'fsdp': 2, 'tensor': 2}, (2, 2, 2)),
  ],
)
def test_axes_multiply_to_the_devices(settings, shape):
  mesh = sharding.make_mesh(settings=MeshSettings(**settings))
  assert tuple(mesh.shape.values()) == shape
  assert list(mesh.devices.flat) == jax.devices()


@pytest.mark.parametrize(
  'settings, text',
  [
    ({'data': 3}, 'mesh.data=3, .* do not multiply to the 8 devices'),
    ({'data': 2, 'fsdp': 2}, 'do not multiply to the 8 devices'),
    ({'fsdp': 16}, 'do not multiply to the 8 devices'),
    ({'fsdp': -1}, 'one of them may be -1'),
    ({'tensor': 0}, 'sizes are positive'),
  ],
)
def test_axes_that_do_not_are_named(settings, text):
  with pytest.raises(ConfigError, match=text):
    sharding.make_mesh(settings=MeshSettings(**settings))


@pytest.mark.parametrize(
  'settings, outside, inside',
  [({}, 1, 1), ({'fsdp': 4}, 1, 1), ({'tensor': 4}, 4, 4)],
)
def test_rows_are_split_by_hand_and_heads_by_xla(settings, outside, inside):
  mesh = sharding.make_mesh(settings=MeshSettings(**settings))
  rows, seen = sharding.spec('batch'), []

  def of_rows(x):
    seen.append((len(x), sharding.batch_axes(), sharding.parts('heads')))
    return sharding.total(jax.numpy.sum(x))

  def run(x):
    with sharding.using(mesh):
      assert sharding.platform() == 'cpu'
      assert sharding.parts('heads') == outside
      return sharding.over_rows(of_rows, rows, sharding.spec())(x)

  placed = jax.jit(run, in_shardings=sharding.by_batch(mesh))
  assert placed(np.arange(16.0)) == 120
  parts = sharding.count(mesh, 'batch')
  ((length, axes, heads),) = seen
  assert (length, heads) == (16 // parts, inside)
  assert np.prod([mesh.shape[axis] for axis in axes]) == parts


def test_without_a_mesh_nothing_changes():
  x = np.arange(3.0)
  assert sharding.batch_axes() == ()
  assert sharding.total(x) is x
  assert sharding.constrain(x, 'heads') is x
  assert sharding.per_device(abs, (('heads',),), ('heads',)) is abs
  assert sharding.over_rows(abs, sharding.spec('batch'), sharding.spec()) is abs
  assert sharding.parts('mlp') == 1
