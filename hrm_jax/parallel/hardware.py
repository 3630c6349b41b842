"""Figures of the devices that are known: memory and full rates."""

import re
from typing import Any, NamedTuple


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
TPUS = {
  'v4': Hardware(30.75 * 2**30, 275e12, 1228e9, 300e9),
  'v5e': Hardware(15.75 * 2**30, 197e12, 819e9, 200e9),
  'v5p': Hardware(95.74 * 2**30, 459e12, 2765e9, 600e9),
  'v6e': Hardware(31.25 * 2**30, 918e12, 1638e9, 400e9),
  # A device is half of a chip.
  'tpu7x': Hardware(94.75 * 2**30, 1153e12, 3690e9, 300e9),
}
# NVIDIA's H100 SXM data sheet: dense bfloat16, NVLink's 900 GB/s both ways;
# memory and its rate as in h100.txtpb, where JAX takes three quarters of the
# memory unless XLA_CLIENT_MEM_FRACTION says otherwise.
H100 = Hardware(0.75 * 84_942_979_072, 989.4e12, 3352e9, 450e9)
# The same by the name that devices give themselves; H200 from its data sheet.
KINDS = {
  'TPU v4': TPUS['v4'],
  'TPU v5 lite': TPUS['v5e'],
  'TPU v5': TPUS['v5p'],
  'TPU v6 lite': TPUS['v6e'],
  'TPU7x': TPUS['tpu7x'],
  'NVIDIA H100 80GB HBM3': H100,
  'NVIDIA H200': Hardware(0.75 * 141e9, 989.4e12, 4800e9, 450e9),
}


def capability(device: Any) -> float | None:
  """The compute capability of NVIDIA's GPUs, such as 7.5; None of others."""
  # Other makers' GPUs have names there, and what a mesh tells of a device none.
  text = str(getattr(device, 'compute_capability', ''))
  return float(text) if re.fullmatch(r'[0-9]+\.[0-9]+', text) else None


def multiplies(device: Any, dtype: str) -> bool:
  """Whether a device's matrix products take numbers of this type."""
  if dtype == 'float16':
    return device.platform not in ('cpu', 'tpu')
  found = capability(device)
  return dtype != 'bfloat16' or found is None or found >= 8


def slowness(device: Any, dtype: str) -> str:
  """Says why activations of a type are slow on a device, and what is not.

  Empty where nothing is to be said.
  """
  if multiplies(device, dtype):
    return ''
  faster = {'cpu': 'float32', 'tpu': 'bfloat16'}.get(device.platform, 'float16')
  return (
    f'{device.device_kind} has no {dtype} arithmetic: it computes in another '
    'type and converts, which is slow; a new run is faster there with '
    f'--config.model.dtype={faster}'
  )
