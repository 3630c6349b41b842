"""Checks the devices of this machine, for `hrm-jax device_check`.

python -m experiments.benchmarks.device describe
python -m experiments.benchmarks.device attention IMPLEMENTATION [FUSION]
python -m experiments.benchmarks.device repeat

Each prints one line of JSON. On a CPU the sizes are small.
"""

import dataclasses
import importlib.metadata
import json
import math
import os
import pathlib
import platform
import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from data_pipelines.errors import ConfigError
from experiments.cli import command, launch, shared_flags
from experiments.configs import sudoku
from experiments.planning import cost
from hrm_jax import build
from hrm_jax.models import kernel_check
from hrm_jax.models.attention.dispatch import resolved
from hrm_jax.settings import HRMSettings, Settings
from hrm_jax.training import step as train_step

_PACKAGES = (
  'jax', 'jaxlib', 'flax', 'optax', 'libtpu', 'jax-cuda12-plugin',
  'jax-cuda13-plugin', 'nvidia-cudnn-cu12', 'nvidia-cudnn-cu13',
)  # fmt: skip
# An error may be so many times that of plain XLA in the same type; what float32
# rounds counts for nothing.
_TIMES, _ROUNDED = 2.0, 1e-5
_STEPS = 5


def describe() -> dict[str, Any]:
  """The devices and the versions of what computes on them."""
  device, versions = jax.devices()[0], {'python': platform.python_version()}
  for name in _PACKAGES:
    try:
      versions[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      continue
  kind, cpuinfo = device.device_kind, pathlib.Path('/proc/cpuinfo')
  if device.platform == 'cpu' and cpuinfo.exists():
    names = re.findall('model name\\s*: (.*)', cpuinfo.read_text())
    kind = f'{names[0] if names else "CPU"}, {os.cpu_count()} cores'
  return {
    'platform': device.platform,
    'device_kind': kind,
    'devices': jax.device_count(),
    'memory_bytes': (device.memory_stats() or {}).get('bytes_limit'),
    'versions': versions,
    'runtime': device.client.platform_version,
  }


def attention(implementation: str, fusion: str = 'attention') -> dict[str, Any]:
  """Compares a block, forward and gradient, with plain XLA's in float32.

  Errors are `kernel_check.difference`, of the output and of all gradients. They
  may be twice those of plain XLA in the type that is trained in.
  """
  device = jax.devices()[0]
  small = device.platform == 'cpu'
  tokens, size = (82, 128) if small else (901, 512)
  block = HRMSettings(
    hidden_size=size, puzzle_emb_ndim=size, attention=implementation,
    fusion=fusion, dtype='float32' if small else 'bfloat16',
  )  # fmt: skip
  block = resolved(block, device)
  by_xla = dataclasses.replace(block, attention='xla')
  exact = kernel_check.results(
    dataclasses.replace(by_xla, dtype='float32'), block.dtype, tokens, device,
    'highest',
  )  # fmt: skip
  out = {
    'implementation': implementation,
    'fusion': fusion,
    'dtype': block.dtype,
    'tokens': tokens,
    'ok': True,
  }
  found, plain = (
    kernel_check.results(settings, block.dtype, tokens, device)
    for settings in (block, by_xla)
  )
  for name, part in (('output', slice(1)), ('gradient', slice(1, None))):
    ours, theirs = (
      kernel_check.difference(some[part], exact[part])
      for some in (found, plain)
    )
    out['ok'] &= ours <= _TIMES * theirs + _ROUNDED
    # JSON has no number that is not finite.
    out[name] = ours if math.isfinite(ours) else None
    out[f'{name}_by_xla'] = theirs
  return out


def repeat() -> dict[str, Any]:
  """Takes some steps twice from one seed; whether all bits are the same."""
  small = jax.default_backend() == 'cpu'
  config = sudoku.get_config('demo' if small else '')
  config.batch_size = 16 if small else 96 * jax.device_count()
  settings = Settings.from_config(config)
  model = resolved(settings.model, jax.devices()[0])
  settings = dataclasses.replace(settings, model=model)
  setup = build.train_setup(settings, build.shapes(settings))
  mesh = build.mesh(settings)
  step = train_step.sharded_step(setup, mesh)
  batch = cost.random_batch(setup, mesh)

  def run():
    state, told = train_step.sharded_init(setup, mesh), []
    for _ in range(_STEPS):
      state, metrics, _ = step(state, batch)
      told.append(metrics)
    # Copies of the addressable parts: some of the state may be split.
    return jax.tree.map(
      lambda leaf: [np.asarray(s.data) for s in leaf.addressable_shards],
      (state, told),
    )

  same = jax.tree.map(lambda a, b: a.tobytes() == b.tobytes(), run(), run())
  return {
    'ok': all(jax.tree.leaves(same)),
    'steps': _STEPS,
    'batch_size': setup.batch_size,
  }


CHECKS = {'describe': describe, 'attention': attention, 'repeat': repeat}


def main(argv: Sequence[str]) -> None:
  if not argv or argv[0] not in CHECKS:
    raise ConfigError(f'name one of {", ".join(CHECKS)}')
  print(json.dumps(CHECKS[argv[0]](*argv[1:])))


if __name__ == '__main__':
  command.run(
    main, shared_flags.define(*shared_flags.JAX), launch.start, positional=True
  )
