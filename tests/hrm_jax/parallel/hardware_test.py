"""What is said of devices."""

import types

import pytest

from hrm_jax.parallel import hardware


def _gpu(kind, capability):
  return types.SimpleNamespace(
    platform='gpu', device_kind=kind, compute_capability=capability
  )


def _other(platform):
  return types.SimpleNamespace(platform=platform, device_kind=platform)


@pytest.mark.parametrize(
  ('device', 'capability', 'slow', 'faster'),
  [
    (_gpu('Tesla T4', '7.5'), 7.5, ['bfloat16'], 'float16'),
    (_gpu('Tesla V100-SXM2-16GB', '7.0'), 7.0, ['bfloat16'], 'float16'),
    (_gpu('NVIDIA A100-SXM4-40GB', '8.0'), 8.0, [], ''),
    (_gpu('NVIDIA B200', '10.0'), 10.0, [], ''),
    (_gpu('AMD Instinct MI300X', 'gfx942'), None, [], ''),
    (_other('tpu'), None, ['float16'], 'bfloat16'),
    (_other('cpu'), None, ['float16'], 'float32'),
  ],
)
def test_types_that_a_device_does_not_have(device, capability, slow, faster):
  assert hardware.capability(device) == capability
  said = {
    dtype: hardware.slowness(device, dtype)
    for dtype in ('float32', 'bfloat16', 'float16')
  }
  assert [dtype for dtype, text in said.items() if text] == slow
  for dtype in slow:
    assert said[dtype].startswith(f'{device.device_kind} has no {dtype}')
    assert said[dtype].endswith(f'--config.model.dtype={faster}')
