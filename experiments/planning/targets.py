"""Devices to compile for, which need not be there, and their figures.

A target is `tpu:TOPOLOGY` with any topology that libtpu knows (`tpu:v5e:2x4`,
`tpu:v4:2x2x1`, several hosts as in `tpu:v5e:16x16`), `gpu:h100:N`, or `cpu:N`
for N simulated devices. The compilers come with `pip install -e '.[aot]'`.
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

EXAMPLES = (
  'tpu:v5e:2x4, tpu:v6e:16x16, tpu:v5p:2x2x2, tpu:v4:2x2x1, gpu:h100:8, '
  'cpu:8, here'
)
_H100 = pathlib.Path(__file__).with_name('h100.txtpb')


class Hardware(NamedTuple):
  """What one device has; rates are None where they are not known.

  That is the bytes that the compiler gives out; bfloat16 operations of matrix
  products, bytes read or written, and bytes sent to other devices per second.
  """

  memory: float
  flops: float | None = None
  memory_bandwidth: float | None = None
  network_bandwidth: float | None = None


# Memory: what libtpu 0.0.42 names as available when a program needs more.
# Rates: Google's pages cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e,tpu7x}; the
# network is half of their "bidirectional inter-chip interconnect bandwidth".
_TPUS = {
  'v4': Hardware(30.75 * 2**30, 275e12, 1228e9, 300e9),
  'v5e': Hardware(15.75 * 2**30, 197e12, 819e9, 200e9),
  'v5p': Hardware(95.74 * 2**30, 459e12, 2765e9, 600e9),
  'v6e': Hardware(31.25 * 2**30, 918e12, 1638e9, 400e9),
  # A device is half of a chip.
  'tpu7x': Hardware(94.75 * 2**30, 1153e12, 3690e9, 300e9),
}
# NVIDIA's H100 SXM data sheet: dense bfloat16, NVLink's 900 GB/s both ways;
# memory and its rate as in h100.txtpb, where JAX takes three quarters of the
# memory unless XLA_CLIENT_MEM_FRACTION says otherwise. Beyond a host of eight
# GPUs each has a DGX H100's adapter of 400 Gbit/s.
_H100_ALONE = Hardware(0.75 * 84_942_979_072, 989.4e12, 3352e9, 450e9)
_H100_HOSTS = _H100_ALONE._replace(network_bandwidth=50e9)
_GPUS_OF_A_HOST = 8
# The same by the name that devices give themselves; H200 from its data sheet.
_KINDS = {
  'TPU v4': _TPUS['v4'],
  'TPU v5 lite': _TPUS['v5e'],
  'TPU v5': _TPUS['v5p'],
  'TPU v6 lite': _TPUS['v6e'],
  'TPU7x': _TPUS['tpu7x'],
  'NVIDIA H100 80GB HBM3': _H100_ALONE,
  'NVIDIA H200': Hardware(0.75 * 141e9, 989.4e12, 4800e9, 450e9),
}


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
  _require(name, 'libtpu', 'libtpu')
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
  if generation not in _TPUS:
    raise ConfigError(
      f'--target={name}: no figures of this TPU; use {", ".join(_TPUS)}, e.g. '
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
  return Target(name, devices, _TPUS[generation])


def _h100(name: str, count: int) -> Target:
  _require(name, 'jax-cuda12-plugin', 'jax_cuda12_plugin')
  _require(name, 'jax-cuda12-pjrt', 'jax_plugins.xla_cuda12')
  _require(name, 'nvidia-cuda-nvcc-cu12', 'nvidia.cuda_nvcc')
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
  hardware = _H100_ALONE if hosts == 1 else _H100_HOSTS
  return Target(name, devices, hardware, options)


def _cpu(name: str, count: int) -> Target:
  flag = f' --xla_force_host_platform_device_count={count}'
  os.environ['XLA_FLAGS'] = os.environ.get('XLA_FLAGS', '') + flag
  devices = jax.devices('cpu')
  return Target(name, devices, Hardware(_machine_memory(devices)))


def _here() -> Target:
  devices, device = jax.devices(), jax.local_devices()[0]
  hardware = _KINDS.get(device.device_kind, Hardware(_machine_memory(devices)))
  # The memory that JAX gives out by its settings here.
  given = (device.memory_stats() or {}).get('bytes_limit', hardware.memory)
  return Target('here', devices, hardware._replace(memory=given), here=True)


def _machine_memory(devices: list[jax.Device]) -> float:
  """Bytes of the machine's memory for each device."""
  memory = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
  return memory / len(devices)


def _require(target: str, package: str, module: str) -> None:
  with contextlib.suppress(ModuleNotFoundError):
    if importlib.util.find_spec(module):
      return
  raise ConfigError(
    f"--target={target} needs the package {package}: pip install -e '.[aot]'"
  )
