"""The device mesh and where each array of the training state lives.

`jax.jit` with NamedShardings is what `pjit` has become.
"""

from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from hrm_jax.errors import ConfigError

DATA_AXIS = 'data'


def make_mesh(devices: list[jax.Device] | None = None) -> Mesh:
  """A mesh of all devices (or of those given) along the batch."""
  devices = jax.devices() if devices is None else devices
  # Auto: Linen's constraints do not work under Explicit axes.
  return Mesh(np.asarray(devices), (DATA_AXIS,), axis_types=(AxisType.Auto,))


def by_batch(mesh: Mesh) -> NamedSharding:
  """Rows of the batch split over the mesh."""
  return NamedSharding(mesh, PartitionSpec(DATA_AXIS))


def replicated(mesh: Mesh) -> NamedSharding:
  """A whole copy on each device."""
  return NamedSharding(mesh, PartitionSpec())


def check_batch_size(mesh: Mesh, batch_size: int, field: str) -> None:
  """Raises ConfigError where the mesh's devices do not divide the batch."""
  if batch_size < 1 or batch_size % mesh.size:
    raise ConfigError(
      f'{field}={batch_size} must be a positive multiple of the {mesh.size} '
      'devices; change it or the number of devices'
    )


def local_rows(mesh: Mesh, batch_size: int) -> slice:
  """The rows of a global batch that this process feeds."""
  indices = by_batch(mesh).addressable_devices_indices_map((batch_size,))
  bounds = [index[0].indices(batch_size)[:2] for index in indices.values()]
  return slice(min(b[0] for b in bounds), max(b[1] for b in bounds))


def global_batch(mesh: Mesh, local: dict[str, np.ndarray]) -> dict[str, Any]:
  """Device arrays of a global batch from each process's own rows."""
  sharding = by_batch(mesh)
  return {
    name: jax.make_array_from_process_local_data(sharding, rows)
    for name, rows in local.items()
  }
