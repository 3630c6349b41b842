"""Tells if a training step fits a device, and what it costs.

  hrm-jax compile --config=NAME[:VARIANT] --target=tpu:v5e:2x4
      [--config.KEY=VALUE ...] [--largest_batch] [--hours=12]
  hrm-jax compile --compress=SPEC --target=gpu:h100:1 [--programs=3]

Compiles the very step that `experiments.train` runs, for a machine that need
not be there (see `targets`). It goes by shapes alone and downloads no puzzles.
With --target=here it also runs the step on random puzzles, and measures it.
Prints a table, and JSON as its last line. The exit code is 1 where the step
does not fit.

With --compress it is the work of `hrm-jax compress` on the tasks of SPEC, some
of whose programs are compiled.
"""

import dataclasses
import json
import math

import jax
from absl import flags, logging
from jax.sharding import Mesh

from data_pipelines import puzzles
from data_pipelines.errors import ConfigError
from experiments.cli import command, launch, shared_flags
from experiments.planning import compressing, cost, targets
from hrm_jax import build
from hrm_jax.compressarc import solving
from hrm_jax.compressarc.solving import Plan
from hrm_jax.models.attention import dispatch as attention
from hrm_jax.parallel import sharding
from hrm_jax.settings import Settings
from hrm_jax.training.step import TrainSetup

FLAGS = shared_flags.define(*shared_flags.JAX, config=None)
flags.DEFINE_string(
  'target', None, 'Devices to compile for, such as tpu:v5e:2x4, gpu:h100:8, '
  'cpu:8 or here.', flag_values=FLAGS,
)  # fmt: skip
flags.DEFINE_boolean(
  'largest_batch', False, 'Finds the largest batch that fits.',
  flag_values=FLAGS,
)  # fmt: skip
flags.DEFINE_integer(
  'puzzle_identifiers', None, 'Number of rows of the puzzle table, where the '
  "data at hand have another; it is 876406 for the paper's ARC-AGI-1 with "
  'ConceptARC.', lower_bound=1, flag_values=FLAGS,
)  # fmt: skip
flags.DEFINE_string(
  'compress', None, 'Tasks for `hrm-jax compress`, in place of --config; its '
  'numbers of steps and of tasks at a time are the defaults.',
  flag_values=FLAGS,
)  # fmt: skip
flags.DEFINE_integer(
  'programs', 3, 'Number of the programs of --compress that are compiled.',
  lower_bound=2, flag_values=FLAGS,
)  # fmt: skip
flags.DEFINE_float(
  'hours', 12.0, 'Tells how many steps so many hours are enough for.',
  lower_bound=0.0, flag_values=FLAGS,
)  # fmt: skip

# Flags of one kind of work that the other has no use for.
_OF_CONFIG = ('largest_batch', 'puzzle_identifiers', 'hours')
_OF_COMPRESS = ('programs',)
# Fraction of the roofline that the projected time of a run assumes.
ATTAINED = 0.5
# The search for the largest batch ends when it is known within this fraction.
_CLOSE = 1 / 32
_GIB = 2**30


def main(_) -> int:
  if (FLAGS.config is None) == (FLAGS.compress is None):
    raise ConfigError(
      'give either --config, e.g. --config=arc1:demo, or --compress, e.g. '
      '--compress=arc1:evaluation'
    )
  kind, useless = (
    ('config', _OF_COMPRESS) if FLAGS.compress is None
    else ('compress', _OF_CONFIG)
  )  # fmt: skip
  for name in useless:
    if FLAGS[name].present:
      raise ConfigError(f'--{name} has no effect with --{kind}; leave it out')
  if FLAGS.target is None:
    raise ConfigError(f'--target is missing; use e.g. {targets.EXAMPLES}')
  # The time to compile is measured, so nothing may come from a cache.
  jax.config.update('jax_enable_compilation_cache', False)
  if FLAGS.compress:
    tasks, _ = solving.read(FLAGS.compress)
    target = targets.find(FLAGS.target)
    programs = FLAGS.programs
    fits = compressing.plan(tasks, Plan(), target, programs, ATTAINED)
    return 0 if fits else 1
  return _of_step(Settings.from_config(FLAGS.config))


def _of_step(config: Settings) -> int:
  target = targets.find(FLAGS.target)
  mesh = build.mesh(config, target.devices)
  model = attention.resolved(config.model, target.devices[0])
  config = dataclasses.replace(config, model=model)
  shapes = build.shapes(config)
  if FLAGS.puzzle_identifiers:
    shapes = shapes._replace(num_identifiers=FLAGS.puzzle_identifiers)
  if FLAGS.largest_batch:
    setup, found = largest_batch(config, shapes, mesh, target)
  else:
    setup = build.train_setup(config, shapes)
    found = cost.of_step(setup, mesh, target)
  runs = target.here and found.fits
  run = cost.run(setup, mesh, found.compiled) if runs else None
  fields = report(setup, mesh, target, found, run)
  print(_table(found, fields, FLAGS.hours))
  if not found.fits:
    print(_refusal(config, setup, mesh, target, found))
  print(json.dumps(fields))
  return 0 if found.fits else 1


def largest_batch(
  config: Settings, shapes: puzzles.Shapes, mesh: Mesh, target: targets.Target
) -> tuple[TrainSetup, cost.Cost]:
  """The setup and cost of the largest global batch that fits.

  It is a multiple of the devices that share a batch times the microbatches;
  where none fits, `Cost.fits` of the smallest is false. Memory is nearly linear
  in the batch, so the search aims by a line through what it has seen.
  """
  unit = sharding.count(mesh, 'batch') * config.microbatches
  memory = target.hardware.memory
  fitting, too_large, best, worst = 0, None, None, None
  seen: dict[int, float] = {}
  tried = max(1, config.batch_size // unit)
  while tried:
    asked = dataclasses.replace(config, batch_size=tried * unit)
    setup = build.train_setup(asked, shapes)
    found = cost.of_step(setup, mesh, target)
    logging.info(
      'Batch size %d: %s, %.2f of %.2f GiB', setup.batch_size,
      'fits' if found.fits else 'does not fit', found.peak_bytes / _GIB,
      memory / _GIB,
    )  # fmt: skip
    seen[tried] = found.peak_bytes
    if found.fits:
      fitting, best = tried, (setup, found)
    else:
      too_large, worst = tried, (setup, found)
    tried = _next(fitting, too_large, seen, memory)
  return best or worst


def _next(
  fitting: int, too_large: int | None, seen: dict[int, float], memory: float
) -> int:
  """The multiple to try next; 0 where the largest is known well enough."""
  if too_large and too_large - fitting <= max(1, math.floor(fitting * _CLOSE)):
    return 0
  at, needs = zip(*sorted(seen.items())[-2:], strict=True)
  if len(seen) > 1:
    slope = (needs[1] - needs[0]) / (at[1] - at[0])
  else:
    slope = needs[0] / at[0]
  aim = math.floor(at[0] + (memory - needs[0]) / slope) if slope > 0 else 0
  if too_large is None:
    return min(max(aim, fitting + 1), 16 * fitting)
  # Never so near to an end that little is learnt.
  step = max(1, (too_large - fitting) // 8)
  return min(max(aim, fitting + step), too_large - step)


def report(
  setup: TrainSetup, mesh: Mesh, target: targets.Target, found: cost.Cost,
  run: cost.Run | None = None,
) -> dict:  # fmt: skip
  """The fields of the JSON line that ends the output."""
  seconds, projection = None, None
  if run:
    seconds, projection = run.seconds, 'as measured'
  elif found.seconds is not None:
    seconds = found.seconds / ATTAINED
    projection = f'if it attains {ATTAINED:.0%} of that (an assumption)'
  return {
    'target': target.name,
    'devices': mesh.size,
    'device_kind': mesh.devices.flat[0].device_kind,
    'mesh': dict(mesh.shape),
    'batch_size': setup.batch_size,
    'microbatches': setup.microbatches,
    'attention': setup.model.settings.attention,
    'puzzle_identifiers': setup.num_puzzle_identifiers,
    'fits': found.fits,
    'peak_bytes_per_device': found.peak_bytes,
    'memory_bytes_per_device': {
      **(found.memory_bytes or {}),
      'capacity': int(target.hardware.memory),
    },
    'flops_per_device': found.flops,
    'uncounted_operations': list(found.uncounted),
    'ideal_flops_per_device': found.ideal_flops,
    'bytes_accessed_per_device': found.accessed_bytes,
    'collective_bytes_per_device': found.collective_bytes,
    'minimum_collective_bytes_per_device': found.least_collective_bytes,
    'largest_collective_operand_bytes': found.largest_operand_bytes,
    'sent_bytes_per_device': found.sent_bytes,
    'compile_seconds': found.compile_seconds,
    'seconds_per_step_at_full_rate': found.times,
    'roofline_seconds_per_step': found.seconds,
    'bound': found.bound,
    'total_steps': setup.total_steps,
    'projected_hours': seconds and setup.total_steps * seconds / 3600,
    'projected_steps_per_hour': seconds and 3600 / seconds,
    'projection': projection and f'{projection}, evaluation not counted',
    'measured_steps': run and run.steps,
    'measured_seconds_per_step': run and run.seconds,
    'measured_peak_bytes_per_device': run and run.peak_bytes,
  }


def _table(found: cost.Cost, fields: dict, hours: float) -> str:
  """Writes `fields`, and what so many hours buy, as a person reads them."""
  shape = ' × '.join(f'{axis} {n}' for axis, n in fields['mesh'].items())
  parts = fields['microbatches']
  text = (
    f'{fields["devices"]} × {fields["device_kind"]} ({shape}), batch size '
    f'{fields["batch_size"]}{f" in {parts} parts" * (parts > 1)}, '
    f'{fields["puzzle_identifiers"]:,} puzzle identifiers, attention by '
    f'{fields["attention"]}'
  )
  rows = [
    (fields['target'], text),
    ('compiled in', f'{found.compile_seconds:.0f} s'),
  ]
  if found.memory_bytes:
    capacity = fields['memory_bytes_per_device']['capacity'] / _GIB
    peak = f'{found.peak_bytes / _GIB:.2f} of {capacity:.2f} GiB a device'
    rows.append(('memory', peak))
    for kind, size in found.memory_bytes.items():
      sign = '-' * (kind == 'aliased')
      rows.append((f'  {kind}', f'{sign}{size / _GIB:.2f} GiB'))
  rows += _work_rows(found)
  if found.times:
    times = ', '.join(f'{kind} {t:.3g} s' for kind, t in found.times.items())
    rows.append(('a step at full rate', f'{times}: {found.bound} bounds it'))
  if seconds := fields['measured_seconds_per_step']:
    text = f'{seconds:.3g} s (median of {fields["measured_steps"]})'
    if found.times:
      text += f', {seconds / found.seconds:.2f} × that'
    rows.append(('a step measured', text))
  if peak := fields['measured_peak_bytes_per_device']:
    rows.append(('memory measured', f'{peak / _GIB:.2f} GiB at its peak'))
  if whole := fields['projected_hours']:
    text = f'{fields["total_steps"]:,} steps in {whole:.3g} hours, '
    rows.append(('the whole run', text + fields['projection']))
    hourly = fields['projected_steps_per_hour']
    steps = int(hours * hourly)
    text = f'{steps:,} steps ({hourly:,.0f} an hour)'
    # But for the blank one each is a puzzle, or an augmentation of one.
    if count := fields['puzzle_identifiers'] - 1:
      times = steps * fields['batch_size'] / count
      text += f', {times:.3g} rows of a batch for each puzzle identifier'
    rows.append((f'in {hours:g} hours', text))
  return '\n'.join(f'{name:20} {text}' for name, text in rows)


def _work_rows(found: cost.Cost) -> list[tuple[str, str]]:
  if found.flops is None:
    reason = 'the compiler gives no text of the program in a known form'
    return [('work and exchanges', f'not known: {reason}')] * found.fits
  text = (
    f'{found.flops / 1e12:.3g} TFLOP, {found.flops / found.ideal_flops:.2f} × '
    f'the ideal {found.ideal_flops / 1e12:.3g}'
  )
  rows = [
    ('arithmetic', text),
    ('memory traffic', f'{found.accessed_bytes / 1e9:.3g} GB'),
  ]
  if found.uncounted:
    text = f'arithmetic of {", ".join(found.uncounted)}, which is not in these'
    rows.append(('not known', text))
  text = 'none'
  if total := sum(found.collective_bytes.values()):
    kinds = ', '.join(
      f'{kind} {size / 1e6:.3g}'
      for kind, size in found.collective_bytes.items()
      if size
    )
    ratio = total / found.least_collective_bytes
    text = f'{total / 1e6:.3g} MB, {ratio:.2f} × the minimum ({kinds})'
  return [*rows, ('exchanges', text)]


def _refusal(
  config: Settings, setup: TrainSetup, mesh: Mesh, target: targets.Target,
  found: cost.Cost,
) -> str:  # fmt: skip
  """Says how much memory is missing, and what would help."""
  lines = [
    f'Does not fit: a device of {target.name} has '
    f'{target.hardware.memory / _GIB:.2f} GiB, the step needs '
    f'{found.peak_bytes / _GIB:.2f} GiB'
    + ' at least' * (found.memory_bytes is None)
    + '. What would help:'
  ]
  rows = setup.batch_size // sharding.count(mesh, 'batch')
  parts = range(2 * setup.microbatches, rows + 1)
  if parts := next((count for count in parts if rows % count == 0), None):
    lines.append(
      f'  --config.microbatches={parts}: the same update, fewer rows at a time'
    )
  if rows > 1:
    lines.append('  a smaller --config.batch_size; --largest_batch finds it')
  if config.model.attention == 'xla':
    lines += ['  --config.model.attention=auto: scores that stay on the chip']
  state = cost.copied_bytes(setup, mesh)
  worth = state > target.hardware.memory / 20
  if mesh.shape['fsdp'] == 1 and mesh.size > 1 and worth:
    lines.append(
      f'  --config.mesh.fsdp={mesh.size}: devices share the {state / _GIB:.2f} '
      'GiB of parameters and optimizer state that each has now'
    )
  lines.append('  more devices, or devices with more memory')
  return '\n'.join(lines)


if __name__ == '__main__':
  command.run(main, FLAGS, launch.start)
