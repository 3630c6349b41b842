"""Devices to compile for, which need not be there, and their figures.

A target is `tpu:TOPOLOGY` with any topology that libtpu knows (`tpu:v5e:2x4`,
`tpu:v4:2x2x1`, several hosts as in `tpu:v5e:16x16`), `gpu:h100:N`, or `cpu:N`
for N simulated devices. `pip install -e '.[aot]'` brings the compiler for TPUs,
`'.[aot-gpu]'` those for GPUs.
`here` stands for the devices of this machine, which can run the program.
"""

import contextlib
import importlib.util
import os
import pathlib
import re
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies

from data_pipelines import quiet
from data_pipelines.errors import ConfigError, first_line
from hrm_jax.parallel.hardware import H100, KINDS, TPUS, Hardware

EXAMPLES = (
  'tpu:v5e:2x4, tpu:v6e:16x16, tpu:v5p:2x2x2, tpu:v4:2x2x1, gpu:h100:8, '
  'cpu:8, here'
)
_H100 = pathlib.Path(__file__).with_name('h100.txtpb')
_GPUS_OF_A_HOST = 8


class Target(NamedTuple):
  """Devices to compile for; those that are `here` can run the program."""

  name: str
  devices: list[jax.Device]
  hardware: Hardware
  compiler_options: dict[str, Any] | None = None
  here: bool = False


def find(name: str) -> Target:
  """Finds the target of this name; call it before JAX starts a backend.

  Raises:
    ConfigError: the target is unknown, or its compiler is not installed.
  """
  if name == 'here':
    return _here()
  platform, _, rest = name.partition(':')
  # Nothing runs, so the accelerators of this machine are left alone.
  jax.config.update('jax_platforms', 'cpu')
  if platform == 'tpu' and rest:
    return _tpu(name, rest)
  if found := re.fullmatch(r'gpu:h100:([1-9][0-9]{0,4})', name):
    return _h100(name, int(found[1]))
  if found := re.fullmatch(r'cpu:([1-9][0-9]{0,3})', name):
    return _cpu(name, int(found[1]))
  raise ConfigError(f'--target={name} is unknown; use e.g. {EXAMPLES}')


def _tpu(name: str, topology: str) -> Target:
  _require(name, 'aot', 'libtpu', 'libtpu')
  # What libtpu asks a TPU's host for, and misses elsewhere.
  for key, value in {
    'TPU_SKIP_MDS_QUERY': '1',
    'TPU_ACCELERATOR_TYPE': 'v5litepod-8',
    'TPU_WORKER_HOSTNAMES': 'localhost',
    'TPU_STDERR_LOG_LEVEL': '3',
    'TPU_MIN_LOG_LEVEL': '3',
    # The lock guards TPUs, and none is used here.
    'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
  }.items():
    os.environ.setdefault(key, value)
  generation, _, layout = topology.partition(':')
  if generation not in TPUS:
    raise ConfigError(
      f'--target={name}: no figures of this TPU; use {", ".join(TPUS)}, e.g. '
      'tpu:v5e:2x4'
    )
  # Two cores of a v4 are one device, as on the machine itself.
  settings = {'chip_config_name': 'megacore'} if generation == 'v4' else {}
  sizes = [int(size) for size in re.findall('[0-9]+', layout)]
  if any(size % 2 for size in sizes[:2]):
    # Hosts have 2 × 2 chips unless that does not fit.
    settings['chips_per_host_bounds'] = (1, 1, 1)
  try:
    with quiet.muted():
      devices = topologies.get_topology_desc(
        platform='tpu', topology_name=topology, **settings
      ).devices
  except jax.errors.JaxRuntimeError as error:
    raise ConfigError(
      f'--target={name} is not a topology that libtpu knows '
      f'({first_line(error)}); use e.g. {EXAMPLES}'
    ) from None
  return Target(name, devices, TPUS[generation])


def _h100(name: str, count: int) -> Target:
  for package, module in {
    'jax-cuda12-plugin': 'jax_cuda12_plugin',
    'jax-cuda12-pjrt': 'jax_plugins.xla_cuda12',
    'nvidia-cuda-nvcc-cu12': 'nvidia.cuda_nvcc',
    'nvidia-cudnn-cu12': 'nvidia.cudnn',
  }.items():
    _require(name, 'aot-gpu', package, module)
  each = min(count, _GPUS_OF_A_HOST)
  hosts = count // each
  if hosts * each != count:
    raise ConfigError(
      f'--target={name}: more than {each} GPUs are hosts of {each}; use a '
      f'multiple, e.g. gpu:h100:{hosts * each}'
    )
  with quiet.muted():
    devices = topologies.get_topology_desc(
      platform='cuda',
      target_config=_H100.read_text(),
      topology=f'1x{hosts}x{each}',
    ).devices
  # Tile sizes would be found by trying them on the GPU.
  options = {'xla_gpu_enable_triton_gemm': False}
  hardware = H100
  if hosts > 1:
    # Each GPU has an adapter of 400 Gbit/s, as in a DGX H100.
    hardware = hardware._replace(network_bandwidth=50e9)
  return Target(name, devices, hardware, options)


def _cpu(name: str, count: int) -> Target:
  flag = f' --xla_force_host_platform_device_count={count}'
  os.environ['XLA_FLAGS'] = os.environ.get('XLA_FLAGS', '') + flag
  devices = jax.devices('cpu')
  return Target(name, devices, Hardware(_machine_memory(devices)))


def _here() -> Target:
  devices, device = jax.devices(), jax.local_devices()[0]
  hardware = KINDS.get(device.device_kind, Hardware(_machine_memory(devices)))
  # The memory that JAX gives out by its settings here.
  given = (device.memory_stats() or {}).get('bytes_limit', hardware.memory)
  return Target('here', devices, hardware._replace(memory=given), here=True)


def _machine_memory(devices: list[jax.Device]) -> float:
  """Bytes of the machine's memory for each device."""
  memory = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
  return memory / len(devices)


def _require(target: str, extra: str, package: str, module: str) -> None:
  with contextlib.suppress(ModuleNotFoundError):
    if importlib.util.find_spec(module):
      return
  raise ConfigError(
    f'--target={target} needs the package {package}: pip install -e '
    f"'.[{extra}]'"
  )
