"""Accounts for a compiled program: memory, arithmetic, traffic, time."""

import dataclasses
import math
import re
import statistics
import time
from typing import NamedTuple

import jax
from jax.sharding import Mesh

from data_pipelines.errors import ConfigError
from experiments.planning import hlo
from experiments.planning.targets import Target
from hrm_jax.parallel import sharding
from hrm_jax.training import act, flops, rngs
from hrm_jax.training import step as train_step

_UNITS = {'K': 2**10, 'M': 2**20, 'G': 2**30, 'T': 2**40}


@dataclasses.dataclass(frozen=True)
class Cost:
  """The cost of one call on one device; None where it is not known.

  It needs `peak_bytes` at least where it does not fit. The ideal is what the
  step's definition asks for; `flops` are what the program computes, without the
  `uncounted` operations. A device puts bytes into exchanges, by kind, and sends
  bytes, as in a ring. `times` are seconds at full rate for 'arithmetic',
  'memory' and 'network'.
  """

  fits: bool
  peak_bytes: int
  compile_seconds: float
  ideal_flops: float | None = None
  least_collective_bytes: int | None = None
  memory_bytes: dict[str, int] | None = None
  flops: float | None = None
  uncounted: tuple[str, ...] = ()
  accessed_bytes: float | None = None
  collective_bytes: dict[str, int] | None = None
  largest_operand_bytes: int | None = None
  sent_bytes: float | None = None
  times: dict[str, float] | None = None
  compiled: jax.stages.Compiled | None = None

  @property
  def bound(self) -> str | None:
    """The kind of work that takes longest at full rate."""
    return max(self.times, key=self.times.get) if self.times else None

  @property
  def seconds(self) -> float | None:
    """Seconds of a call at the roofline."""
    return self.times[self.bound] if self.times else None


def of_step(setup: train_step.TrainSetup, mesh: Mesh, target: Target) -> Cost:
  """Compiles the step that training runs, and accounts for it.

  Raises:
    ConfigError: the mesh does not divide the model or the batch, or a kernel
      does not fit on the chip.
  """
  lowered = train_step.trace(setup, mesh).lower()
  try:
    found = of_program(lowered, mesh, target)
  except jax.errors.JaxRuntimeError as error:
    if 'memory space vmem' in str(error):
      raise ConfigError(
        f'{target.name}: a kernel does not fit on the chip; set '
        '--config.model.fusion=attention or '
        '--config.model.attention=xla_recompute'
      ) from None
    raise
  return dataclasses.replace(
    found,
    ideal_flops=flops.ideal_step_flops(setup) / mesh.size,
    least_collective_bytes=least_collective_bytes(setup, mesh),
  )


def of_program(lowered: jax.stages.Lowered, mesh: Mesh, target: Target) -> Cost:
  """Compiles a program for a target's mesh, and accounts for a call of it."""
  compiled, needed, begin = None, 0, time.perf_counter()
  try:
    compiled = lowered.compile(target.compiler_options)
  except jax.errors.JaxRuntimeError as error:
    if 'RESOURCE_EXHAUSTED' not in str(error) or 'space vmem' in str(error):
      raise
    needed = needed_bytes(str(error))
  cost = Cost(
    fits=False,
    peak_bytes=needed,
    compile_seconds=time.perf_counter() - begin,
  )
  if compiled is None:
    return cost
  stats = compiled.memory_analysis()
  memory = {
    'arguments': stats.argument_size_in_bytes,
    'outputs': stats.output_size_in_bytes,
    'aliased': stats.alias_size_in_bytes,
    'temporaries': stats.temp_size_in_bytes,
    'program': stats.generated_code_size_in_bytes,
  }
  # Results that lie where arguments lay are counted twice.
  peak = sum(memory.values()) - 2 * memory['aliased']
  with sharding.using(mesh):
    platform = sharding.platform()
  if platform == 'tpu':
    # The compiler refuses what does not fit; the kinds overlap a little.
    peak = min(peak, int(target.hardware.memory))
  cost = dataclasses.replace(
    cost,
    fits=peak <= target.hardware.memory,
    peak_bytes=peak,
    memory_bytes=memory,
    compiled=compiled,
  )
  try:
    program = hlo.Program(compiled.as_text() or '', mesh.size)
  except (jax.errors.JaxRuntimeError, hlo.UnknownForm):
    return cost
  arithmetic, accessed = _work(compiled, program, platform)
  exchanges = program.collectives()
  put = dict.fromkeys(hlo.KINDS, 0)
  for exchange in exchanges:
    put[exchange.kind] += exchange.times * exchange.operand_bytes
  cost = dataclasses.replace(
    cost,
    flops=arithmetic,
    accessed_bytes=accessed,
    uncounted=program.uncounted(),
    collective_bytes=put,
    largest_operand_bytes=max((e.operand_bytes for e in exchanges), default=0),
    sent_bytes=sum(e.times * e.sent_bytes for e in exchanges),
  )
  hardware = target.hardware
  if hardware.flops is None:
    return cost
  times = {
    'arithmetic': cost.flops / hardware.flops,
    'memory': cost.accessed_bytes / hardware.memory_bandwidth,
    'network': cost.sent_bytes / hardware.network_bandwidth,
  }
  return dataclasses.replace(cost, times=times)


class Run(NamedTuple):
  """The median seconds of so many steps after the first.

  `peak_bytes` is the peak of a device's memory since JAX started, if known.
  """

  steps: int
  seconds: float
  peak_bytes: int | None


def run(
  setup: train_step.TrainSetup, mesh: Mesh, compiled: jax.stages.Compiled,
  seconds: float = 20.0,
) -> Run:  # fmt: skip
  """Runs the program of `of_step` on random puzzles for about `seconds`."""
  batch = random_batch(setup, mesh)
  state = train_step.sharded_init(setup, mesh)
  times = []
  # The first loads the program.
  while len(times) < 2 or sum(times[1:]) < seconds:
    begin = time.perf_counter()
    state, *_ = jax.block_until_ready(compiled(state, batch))
    times.append(time.perf_counter() - begin)
  stats = jax.local_devices()[0].memory_stats() or {}
  return Run(
    len(times) - 1, statistics.median(times[1:]), stats.get('peak_bytes_in_use')
  )


def random_batch(setup: train_step.TrainSetup, mesh: Mesh) -> act.Batch:
  """A batch of random cells of random puzzles, made where it lives."""
  tokens = (1, setup.model.vocab_size)
  limits = {'inputs': tokens, 'labels': tokens}
  limits['puzzle_identifiers'] = (0, setup.num_puzzle_identifiers)
  return jax.jit(
    lambda: {
      name: jax.random.randint(
        rngs.stream_key(setup.seed, name), array.shape, *limits[name]
      )
      for name, array in train_step.abstract_batch(setup, mesh).items()
    },
    out_shardings=sharding.by_batch(mesh),
  )()


def least_collective_bytes(setup: train_step.TrainSetup, mesh: Mesh) -> int:
  """Least number of bytes that a device puts into exchanges.

  Parameters are copied to n devices, which share the batch. Each of them puts
  in the float32 gradient of each dense parameter once, 4 · P bytes; the puzzle
  embeddings found for the whole batch, 4 · B · E; and the gradients of its own
  rows, 4 · B · E / n. One device alone has nothing to exchange.
  """
  if mesh.size == 1:
    return 0
  state = train_step.abstract_state(setup, mesh)
  parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
  rows = setup.batch_size * setup.model.settings.puzzle_emb_ndim
  own = rows // sharding.count(mesh, 'batch')
  return 4 * (parameters + rows + own)


def copied_bytes(setup: train_step.TrainSetup, mesh: Mesh) -> int:
  """Bytes of one device's parameters, their average and optimizer state."""
  state = train_step.abstract_state(setup, mesh)
  return sum(
    leaf.dtype.itemsize * math.prod(leaf.sharding.shard_shape(leaf.shape))
    for leaf in jax.tree.leaves((state.params, state.ema, state.opt_state))
  )


def _work(
  compiled: jax.stages.Compiled, program: hlo.Program, platform: str
) -> tuple[float, float]:
  """Returns the FLOPs and the bytes accessed.

  XLA counts the body of a loop once: the text gives the ratio to correct that.
  On GPUs it leaves out what libraries compute: the text's own figures are used.
  """
  told = {} if platform == 'gpu' else compiled.cost_analysis() or {}
  counts = {'flops': program.flops, 'bytes accessed': program.bytes_accessed}
  out = []
  for name, count in counts.items():
    once, all_loops = count(loops=False), count(loops=True)
    out.append(told[name] * all_loops / once if told and once else all_loops)
  return tuple(out)


def needed_bytes(message: str) -> int:
  """Reads the bytes asked for in any form of the TPU compiler's message."""
  found = re.search(
    r'(?:temporaries \(|Used |hbm usage >= )([0-9.]+)([KMGT])', message
  )
  return int(float(found[1]) * _UNITS[found[2]]) if found else 0
