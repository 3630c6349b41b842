"""A check before trust: a block by a kernel beside the same block by plain XLA.

A kernel that 'auto' chose may run on a device, or with versions, that nobody
has tried. So whoever is about to run a model settles its attention here first:
where the kernel raises, does not come back or gives other numbers, the run goes
on by plain XLA. The verdict is kept for this device, these versions and shapes.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import importlib.metadata
import json
import pathlib
import threading
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging
from jax.sharding import Mesh

from data_pipelines import files
from data_pipelines.errors import ConfigError, first_line
from hrm_jax.models import layers
from hrm_jax.models.attention import dispatch as attention
from hrm_jax.models.base import ReasoningModel
from hrm_jax.parallel import processes, sharding
from hrm_jax.settings import ModelSettings

KERNELS = ('pallas', 'cudnn')
# Largest error of a row, a fraction of the rows' norm (see `difference`).
# It was 0.013 for sound kernels in bfloat16, at the paper's sizes.
TOLERANCE = 0.03
PATIENCE_SECONDS = 300.0
_ROWS = 2
# Distributions whose version may change what a kernel computes.
_PACKAGES = ('jax', 'libtpu', 'nvidia-cudnn')

Arrays = Sequence[np.ndarray]


def settled(model: ReasoningModel, mesh: Mesh) -> tuple[ReasoningModel, str]:
  """The model with attention that can be trusted on the devices of a mesh.

  All processes of the mesh call it, and decide alike.

  Returns:
    The model, and the attention that it has now, in words.

  Raises:
    ConfigError: the attention that its settings name is not for the device, or
      fails the check; only what 'auto' chose is replaced.
  """
  device = mesh.local_devices[0]
  settings = attention.resolved(model.settings, device)
  kernel: str = settings.attention
  # Without attention there is no kernel.
  if kernel not in KERNELS or getattr(settings, 'mlp_t', False):
    return model.clone(settings=settings), kernel
  block = _block(settings, sharding.count(mesh, 'heads'))
  length = model.num_tokens
  fault = kept(
    _key(block, length, device), lambda: check(block, length, device)
  )
  if processes.any_of(bool(fault)):
    told = f'{kernel} failed its check on {device.device_kind}'
    told += f' ({fault or "in another process"})'
    if model.settings.attention != 'auto':
      raise ConfigError(f"model.attention: {told}; use 'auto'")
    logging.warning(
      'model.attention: %s; going on by plain XLA, which is slower. The '
      'verdict is kept in %s',
      told, _folder(),
    )  # fmt: skip
    settings = dataclasses.replace(settings, attention='xla_recompute')
    kernel = f'xla_recompute, as {told}'
  return model.clone(settings=settings), kernel


def check(block: ModelSettings, length: int, device: jax.Device) -> str:
  """The fault of a block's kernel against plain XLA, see `fault`."""
  plain = dataclasses.replace(block, attention='xla', dtype='float32')
  return fault(
    lambda: results(block, block.dtype, length, device),
    lambda: results(plain, block.dtype, length, device, 'highest'),
  )


def results(
  block: ModelSettings, dtype: str, length: int, device: jax.Device,
  precision: str | None = None,
) -> Arrays:  # fmt: skip
  """A block's output and gradients, float32, for a small random batch.

  Args:
    block: settings of the block; its parameters are random.
    dtype: type that the batch [2, length, D] and the output's gradient have.
    length: number of tokens.
    device: where it is computed.
    precision: precision of matrix products; None for the usual one.
  """
  shape = (_ROWS, length, block.hidden_size)
  # Whose parameters are anyone's; a kernel need not run for them.
  plain = dataclasses.replace(block, attention='xla')

  @jax.jit
  def run():
    keys = jax.random.split(jax.random.key(0), 3)
    x, dout = (jax.random.normal(key, shape).astype(dtype) for key in keys[:2])
    variables = layers.Level(1, plain).init(keys[2], x)
    out: Any
    out, vjp = jax.vjp(layers.Level(1, block).apply, variables, x)
    return out, vjp(dout.astype(out.dtype))

  with jax.default_device(device), jax.default_matmul_precision(precision):
    return [np.asarray(x, np.float32) for x in jax.tree.leaves(run())]


def fault(
  kernel: Callable[[], Arrays], plain: Callable[[], Arrays],
  patience: float = PATIENCE_SECONDS,
) -> str:  # fmt: skip
  """The fault of a kernel, in words; empty where it has none.

  Args:
    kernel: computes some arrays by it.
    plain: computes the same arrays without it.
    patience: seconds that both may take together.
  """
  found: list[str] = []

  def run():
    try:
      error = difference(kernel(), plain())
      # Also where it is not a number.
      wrong = not error <= TOLERANCE
      found.append(f'wrong by {error:.2g} of its results' * wrong)
    except Exception as problem:
      found.append(first_line(problem))

  thread = threading.Thread(target=run, name='kernel_check', daemon=True)
  thread.start()
  thread.join(patience)
  return found[0] if found else f'no result within {patience:.0f} s'


def difference(ours: Arrays, exact: Arrays) -> float:
  """The largest error of a row of some array, over the root mean square norm.

  A row is what lies along the last axis: one wrong token among hundreds shows.
  """
  errors = [
    np.max(np.linalg.norm(a - b, axis=-1))
    / np.sqrt(np.mean(np.square(np.linalg.norm(b, axis=-1))))
    for a, b in zip(ours, exact, strict=True)
  ]
  # Python's max would pass over what is not a number.
  return float(np.max(errors))


def kept(key: dict[str, Any], verdict: Callable[[], str]) -> str:
  """The verdict of this key, from the cache directory where it is known.

  A process that ends within `verdict` leaves that as what was found: the next
  start does not try again.
  """
  text = json.dumps(key, sort_keys=True)
  name = hashlib.sha256(text.encode()).hexdigest()[:16]
  try:
    _folder().mkdir(parents=True, exist_ok=True)
    file = (_folder() / f'{name}.json').open('ab+', buffering=0)
  except OSError:
    # Then it is checked at each start.
    return verdict()

  def write(**found: str) -> None:
    with contextlib.suppress(OSError):
      file.truncate(0)
      file.write(json.dumps({**key, **found}, indent=2).encode())

  with file:
    # Another process that is at the same check is waited for.
    with contextlib.suppress(OSError):
      fcntl.flock(file, fcntl.LOCK_EX)
    file.seek(0)
    with contextlib.suppress(ValueError, KeyError, TypeError):
      return str(json.loads(file.read())['fault'])
    write(fault='the process ended during the check')
    try:
      found = verdict()
    except BaseException:
      # An interrupted check has found nothing.
      write()
      raise
    write(fault=found)
    return found


def _block(settings: ModelSettings, shares: int) -> ModelSettings:
  """Settings of the block that one device computes by kernels."""
  if shares == 1:
    return settings
  # Then a kernel has a device's share of the heads, and nothing else.
  return dataclasses.replace(
    settings,
    hidden_size=settings.hidden_size // shares,
    num_heads=settings.num_heads // shares,
    puzzle_emb_ndim=0,
    fusion='attention',
  )


def _key(
  block: ModelSettings, length: int, device: jax.Device
) -> dict[str, Any]:
  """What a verdict depends on."""
  sources = sorted(pathlib.Path(__file__).parent.rglob('*.py'))
  code = b''.join(path.read_bytes() for path in sources)
  fields = {f.name for f in dataclasses.fields(ModelSettings)}
  return {
    'device': device.device_kind,
    'runtime': device.client.platform_version,
    'versions': {
      found.name: found.version
      for found in importlib.metadata.distributions()
      if (found.name or '').startswith(_PACKAGES)
    },
    'code': hashlib.sha256(code).hexdigest()[:16],
    'block': {name: getattr(block, name) for name in fields},
    'tokens': length,
  }


def _folder() -> pathlib.Path:
  return files.cache_folder() / 'kernels'
