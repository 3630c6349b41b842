"""The device mesh, and where each array of the training state lives.

`jax.jit` with NamedShardings is what `pjit` has become. Arrays name their axes
(`'batch'`, `'puzzles'`, ...); RULES, the one table, says over which axes of the
mesh each name is split:

  data    rows of the batch; parameters are copied along it
  fsdp    rows of the batch too; parameters and optimizer state are split
  tensor  heads and MLP columns of the same rows

The step opens its mesh by `using(mesh)` while it is traced; what is called
below asks for it here. Without one, all of it runs on one device.
"""

import contextlib
import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from hrm_jax.errors import ConfigError

AXES = ('data', 'fsdp', 'tensor')

RULES: dict[str | None, tuple[str, ...]] = {
  None: (),
  # Rows of a batch and of the carry.
  'batch': ('data', 'fsdp'),
  # Rows of the puzzle table.
  'puzzles': ('data', 'fsdp', 'tensor'),
  # The hidden size, where it is an axis of a parameter.
  'embed': ('fsdp',),
  # Attention heads, and columns of the MLP.
  'heads': ('tensor',),
  'mlp': ('tensor',),
}


@dataclasses.dataclass(frozen=True)
class MeshSettings:
  """Devices along each axis of the mesh; -1 is what the others leave.

  Attributes:
    data: copies of the model, each with its rows of the batch.
    fsdp: devices that share the parameters, each with its rows of the batch.
    tensor: devices that share heads and MLP of the same rows.
  """

  data: int = -1
  fsdp: int = 1
  tensor: int = 1

  def shape(self, num_devices: int) -> tuple[int, int, int]:
    """Sizes of the axes for so many devices.

    Raises:
      ConfigError: they do not multiply to the devices.
    """
    sizes = [self.data, self.fsdp, self.tensor]
    text = ', '.join(
      f'mesh.{axis}={size}' for axis, size in zip(AXES, sizes, strict=True)
    )
    if sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes):
      raise ConfigError(f'{text}: sizes are positive, one of them may be -1')
    given = math.prod(size for size in sizes if size != -1)
    if num_devices % given or (-1 not in sizes and given != num_devices):
      raise ConfigError(
        f'{text} do not multiply to the {num_devices} devices; change one, or '
        'set mesh.data=-1 for what the others leave'
      )
    return tuple(num_devices // given if s == -1 else s for s in sizes)


def make_mesh(
  devices: list[jax.Device] | None = None,
  settings: MeshSettings = MeshSettings(),
) -> Mesh:
  """A mesh of all devices (or of those given)."""
  devices = jax.devices() if devices is None else devices
  shape = settings.shape(len(devices))
  # Auto: Linen's constraints do not work under Explicit axes.
  return Mesh(
    np.asarray(devices).reshape(shape), AXES, axis_types=(AxisType.Auto,) * 3
  )


def using(mesh: Mesh) -> contextlib.AbstractContextManager:
  """Makes `mesh` the one that code traced inside runs on."""
  return jax.sharding.use_abstract_mesh(mesh.abstract_mesh)


def platform() -> str:
  """What the code being traced will run on: 'cpu', 'gpu' or 'tpu'."""
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return jax.default_backend()
  return {'cuda': 'gpu', 'rocm': 'gpu'}.get(
    mesh.abstract_device.platform, mesh.abstract_device.platform
  )


def spec(*names: str | None) -> PartitionSpec:
  """How an array whose axes have these names is split."""
  return PartitionSpec(*(RULES[name] or None for name in names))


def count(mesh: Any, name: str) -> int:
  """Parts that an axis of this name is split into."""
  return math.prod(mesh.shape[axis] for axis in RULES[name])


def place(mesh: Mesh, *names: str | None) -> NamedSharding:
  """`spec` on a mesh; without names a whole copy on each device."""
  return NamedSharding(mesh, spec(*names))


def by_batch(mesh: Mesh) -> NamedSharding:
  """Rows of the batch split over the mesh."""
  return place(mesh, 'batch')


def replicated(mesh: Mesh) -> NamedSharding:
  """A whole copy on each device."""
  return place(mesh)


def check_batch_size(mesh: Mesh, batch_size: int, field: str) -> None:
  """Raises ConfigError where the mesh does not divide the batch."""
  parts = count(mesh, 'batch')
  if batch_size < 1 or batch_size % parts:
    raise ConfigError(
      f'{field}={batch_size} must be a positive multiple of the {parts} '
      'devices that share it; change it or the number of devices'
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


def per_device(
  function: Callable,
  inputs: tuple[tuple[str | None, ...], ...],
  outputs: Any,
) -> Callable:
  """`function` of each device's own part of its arguments.

  Args:
    function: of arrays; sees the parts.
    inputs: the axes' names of each argument.
    outputs: a PartitionSpec for each result, from `spec`.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or mesh.size == 1:
    return function
  return jax.shard_map(
    function,
    in_specs=tuple(spec(*names) for names in inputs),
    out_specs=outputs,
    # Kernels do not tell over which axes their results vary.
    check_vma=False,
  )
