"""The device mesh, and where each array of the training state lives.

`jax.jit` with NamedShardings is what `pjit` has become. Arrays name their axes;
RULES, the one table, says over which axes of the mesh each name is split:

  data    rows of the batch; parameters are copied along it
  fsdp    rows of the batch too; parameters and optimizer state are split
  tensor  heads and MLP columns of the same rows

The step opens its mesh by `using(mesh)` while it is traced, and does a device's
own rows by `over_rows`: inside it what crosses devices is written out, so that
it can be counted. Along `tensor` XLA finds its own way. Without a mesh all of
it runs on one device, and the functions here change nothing.
"""

import contextlib
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from data_pipelines.errors import ConfigError
from hrm_jax.settings import MeshSettings

AXES = ('data', 'fsdp', 'tensor')

RULES: dict[str | None, tuple[str, ...]] = {
  None: (),
  'batch': ('data', 'fsdp'),  # Rows of a batch and of the carry.
  'puzzles': ('data', 'fsdp'),  # Rows of the puzzle table.
  'embed': ('fsdp',),  # The hidden size, as an axis of a parameter.
  'heads': ('tensor',),
  'mlp': ('tensor',),  # Columns of the MLP.
}


def make_mesh(
  devices: Sequence[jax.Device] | None = None,
  settings: MeshSettings | None = None,
) -> Mesh:
  """A mesh of all devices (or of those given)."""
  devices = jax.devices() if devices is None else devices
  # Those of a process together: it feeds one run of rows.
  devices = sorted(devices, key=lambda d: (d.process_index, d.id))
  shape = (settings or MeshSettings()).shape(len(devices))
  # Auto: Linen's constraints do not work under Explicit axes.
  return Mesh(
    np.asarray(devices).reshape(shape), AXES, axis_types=(AxisType.Auto,) * 3
  )


def describe(mesh: Mesh) -> str:
  """Shape and processes for a log line; nothing of one device."""
  axes = [f'{a}={size}' for a, size in mesh.shape.items() if size > 1]
  processes = len({device.process_index for device in mesh.devices.flat})
  if processes > 1:
    axes.append(f'{processes} processes')
  return f' ({", ".join(axes)})' if axes else ''


def using(mesh: Mesh) -> contextlib.AbstractContextManager:
  """Makes `mesh` the one that code traced inside runs on."""
  return jax.sharding.use_abstract_mesh(mesh.abstract_mesh)


def device() -> Any:
  """A device that the code being traced will run on.

  Where none of this kind is there, what a mesh tells of it: less is known then.
  """
  mesh, found = jax.sharding.get_abstract_mesh(), jax.devices()
  if mesh.empty:
    return found[0]
  kind = mesh.abstract_device
  return next((d for d in found if d.device_kind == kind.device_kind), kind)


def platform() -> str:
  """What the code being traced will run on: 'cpu', 'gpu' or 'tpu'."""
  return device().platform


def spec(*names: str | None) -> PartitionSpec:
  """How an array whose axes have these names is split."""
  return PartitionSpec(*(RULES[name] or None for name in names))


def count(mesh: Any, name: str) -> int:
  """Parts that an axis of this name is split into."""
  return math.prod(mesh.shape[axis] for axis in RULES[name])


def round_up(mesh: Mesh, name: str, size: int) -> int:
  """The next size that an axis of this name can have in equal parts."""
  parts = count(mesh, name)
  return -(-size // parts) * parts


def place(mesh: Mesh, *names: str | None) -> NamedSharding:
  """`spec` on a mesh; without names a whole copy on each device."""
  return NamedSharding(mesh, spec(*names))


def placed(mesh: Mesh, shapes: Any, specs: Any) -> Any:
  """Abstract arrays of these shapes, split over a mesh as `specs` say."""
  return jax.tree.map(
    lambda leaf, split: leaf.update(sharding=NamedSharding(mesh, split)),
    shapes,
    specs,
  )


def by_batch(mesh: Mesh, stacked: bool = False) -> NamedSharding:
  """Rows of the batch, or of a stack of batches, split over the mesh."""
  return place(mesh, *[None] * stacked, 'batch')


def replicated(mesh: Mesh) -> NamedSharding:
  """A whole copy on each device."""
  return place(mesh)


def check_batch_size(
  mesh: Mesh, batch_size: int, field: str, microbatches: int = 1
) -> None:
  """Raises ConfigError where the mesh does not divide the batch."""
  parts = count(mesh, 'batch')
  if batch_size < 1 or batch_size % (parts * microbatches):
    times = f' times microbatches={microbatches}' if microbatches > 1 else ''
    raise ConfigError(
      f'{field}={batch_size} must be a positive multiple of the {parts} '
      f'device{"s" * (parts > 1)} that share it{times}; change it, or mesh or '
      'microbatches'
    )


def local_rows(mesh: Mesh, batch_size: int) -> slice:
  """The rows of a global batch that this process feeds."""
  indices = by_batch(mesh).addressable_devices_indices_map((batch_size,))
  parts = (index[0] for index in indices.values() if index)
  bounds = [part.indices(batch_size)[:2] for part in parts]
  return slice(min(b[0] for b in bounds), max(b[1] for b in bounds))


def global_batch(
  mesh: Mesh, local: dict[str, np.ndarray], stacked: bool = False
) -> dict[str, Any]:
  """Device arrays of a global batch from each process's own rows.

  Or those of a stack of batches, whose rows are the second axis.
  """
  make, where = jax.make_array_from_process_local_data, by_batch(mesh, stacked)
  return {name: make(where, rows) for name, rows in local.items()}


def over_rows(function: Callable, inputs: Any, outputs: Any) -> Callable:
  """`function` as each device runs it on its rows of the batch.

  It takes its device's parts of arrays, split as the specs `inputs` (of each
  argument) and `outputs` say, and may call `batch_axes` and what stands below.
  """
  mesh = jax.sharding.get_abstract_mesh()
  # Axes of one device hold nothing for XLA to split.
  manual = (a for a in AXES if a in RULES['batch'] or mesh.shape[a] == 1)
  return _mapped(function, inputs, outputs, manual)


def per_device(
  function: Callable,
  inputs: tuple[tuple[str | None, ...], ...],
  output: tuple[str | None, ...],
) -> Callable:
  """`function` as each device runs it on its part of the arrays.

  For kernels, which XLA cannot split; `inputs` and `output` name the axes.
  """
  left = jax.sharding.get_abstract_mesh().auto_axes
  specs = tuple(spec(*names) for names in inputs)
  return _mapped(function, specs, spec(*output), left)


def _mapped(
  function: Callable, inputs: Any, outputs: Any, axes: Iterable[str]
) -> Callable:
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or mesh.size == 1 or not (axes := set(axes)):
    return function
  return jax.shard_map(
    function,
    in_specs=_only(inputs, axes),
    out_specs=_only(outputs, axes),
    axis_names=axes,
    check_vma=False,
  )


def _only(specs: Any, axes: set[str]) -> Any:
  """The specs, of these axes of the mesh alone."""
  return jax.tree.map(
    lambda whole: PartitionSpec(
      *(tuple(a for a in split if a in axes) or None for split in _axes(whole))
    ),
    specs,
    is_leaf=lambda x: isinstance(x, PartitionSpec),
  )


def constrain(x: jax.Array, *names: str | None) -> jax.Array:
  """Tells XLA how to split an array along what it splits itself."""
  mesh = jax.sharding.get_abstract_mesh()
  left = {axis for axis in mesh.auto_axes if mesh.shape[axis] > 1}
  split = _only(spec(*names), left)
  return jax.lax.with_sharding_constraint(x, split) if left else x


def jitted(
  mesh: Mesh, function: Callable, inputs: tuple, outputs: Any, **options: Any
) -> Callable:
  """`function(variables, ...)` jitted on a mesh, the variables made whole.

  `inputs` are the places of its other arguments.
  """

  def run(variables, *arguments):
    with using(mesh):
      whole = jax.lax.with_sharding_constraint(variables, PartitionSpec())
      return function(whole, *arguments)

  # Variables come as they are: they may be split.
  places = (None, *inputs)
  return jax.jit(run, in_shardings=places, out_shardings=outputs, **options)


def parts(name: str | None) -> int:
  """Parts that XLA splits an axis of this name into."""
  mesh = jax.sharding.get_abstract_mesh()
  return math.prod(mesh.shape[a] for a in RULES[name] if a in mesh.auto_axes)


def batch_axes() -> tuple[str, ...]:
  """Inside `over_rows`, the mesh axes that the rows are split over."""
  mesh = jax.sharding.get_abstract_mesh()
  axes = (axis for axis in RULES['batch'] if axis in mesh.manual_axes)
  return tuple(axis for axis in axes if mesh.shape[axis] > 1)


def total(tree: Any) -> Any:
  """Sums over all devices' rows."""
  axes = batch_axes()
  return jax.lax.psum(tree, axes) if axes else tree


def whole(tree: Any, specs: Any) -> Any:
  """Arrays split as `specs` say, put together on each device."""

  def gather(x, split):
    for dimension, axes in _split(split):
      x = jax.lax.all_gather(x, axes, axis=dimension, tiled=True)
    return x

  return jax.tree.map(gather, tree, specs)


def part(tree: Any, specs: Any) -> Any:
  """Each device's part of whole arrays: the inverse of `whole`."""

  def cut(x, split):
    for dimension, axes in _split(split):
      size = x.shape[dimension] // jax.lax.axis_size(axes)
      start = size * jax.lax.axis_index(axes)
      x = jax.lax.dynamic_slice_in_dim(x, start, size, dimension)
    return x

  return jax.tree.map(cut, tree, specs)


def total_split(tree: Any, specs: Any) -> Any:
  """Sums over all devices' rows, each device keeping its part of them."""

  def reduce(x, split):
    left = set(batch_axes())
    for dimension, axes in _split(split):
      x = jax.lax.psum_scatter(x, axes, scatter_dimension=dimension, tiled=True)
      left -= set(axes)
    return jax.lax.psum(x, tuple(sorted(left))) if left else x

  return jax.tree.map(reduce, tree, specs)


def total_of_parts(tree: Any, specs: Any) -> Any:
  """Sums scalars over the parts of arrays that are split as `specs` say."""
  scalars, structure = jax.tree.flatten(tree)
  alike: dict[tuple[str, ...], list[int]] = {}
  for i, split in enumerate(jax.tree.leaves(specs)):
    axes = tuple(axis for _, some in _split(split) for axis in some)
    if axes:
      alike.setdefault(axes, []).append(i)
  for axes, chosen in alike.items():
    # One exchange for all of them.
    sums = jax.lax.psum(jnp.stack([scalars[i] for i in chosen]), axes)
    for i, scalar in zip(chosen, sums, strict=True):
      scalars[i] = scalar
  return jax.tree.unflatten(structure, scalars)


def _axes(whole: PartitionSpec) -> list[tuple[str, ...]]:
  """Axes of the mesh for each dimension; a spec holds a single one bare."""
  return [(s,) if isinstance(s, str) else tuple(s or ()) for s in whole]


def _split(whole: PartitionSpec) -> list[tuple[int, tuple[str, ...]]]:
  """Dimensions that are split over devices of other rows, and over which."""
  split = [tuple(a for a in s if a in batch_axes()) for s in _axes(whole)]
  return [(dimension, axes) for dimension, axes in enumerate(split) if axes]
