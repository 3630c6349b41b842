"""Times recipes: how long until a fixed score on fixed held-out puzzles.

  hrm-jax speedrun [--recipes=fastest,hrm] [--seeds=0,1,2] [--out=DIR]

Trains each recipe with each seed, as `hrm-jax train --config=speedrun:RECIPE`
does, which ends when the score is reached, and prints a table in Markdown. What
is measured is the whole process: its start, its compilation, all evaluations
and the checkpoint at its end; the puzzles were generated before. The runs lie
in DIR, and DIR/speedrun.json has what was measured. Started again, the command
takes over what that file has, and measures the rest. The log says what each run
printed.
"""

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

import jax
from absl import flags, logging

from data_pipelines import files
from data_pipelines.errors import ConfigError
from experiments.cli import command, launch, shared_flags
from experiments.configs import speedrun
from experiments.reporting import training_curves
from hrm_jax import build
from hrm_jax.settings import Settings
from hrm_jax.workdir import config as workdir_config

FLAGS = shared_flags.define(*shared_flags.JAX)
flags.DEFINE_list(
  'recipes', 'fastest', 'Recipes to time, out of '
  f'{", ".join(speedrun.RECIPES)}.', flag_values=FLAGS,
)  # fmt: skip
flags.DEFINE_list(
  'seeds', '0,1,2', 'Seeds that each recipe is timed with.', flag_values=FLAGS,
)  # fmt: skip
shared_flags.path(
  'out', 'runs/speedrun', 'Directory of the runs and their times.', FLAGS
)


def main(_) -> None:
  recipes, seeds = FLAGS.recipes, FLAGS.seeds
  if unknown := set(recipes) - {*speedrun.RECIPES}:
    raise ConfigError(
      f'--recipes={",".join(sorted(unknown))}: there are '
      f'{", ".join(speedrun.RECIPES)}'
    )
  if not all(seed.isdecimal() for seed in seeds):
    raise ConfigError(f'--seeds={",".join(seeds)} must be whole numbers')
  with command.writing(FLAGS.out / 'speedrun.json') as path:
    known = files.parse_json(files.read(path), path) if path.exists() else []
  wanted = [(recipe, int(seed)) for recipe in recipes for seed in seeds]
  for recipe, seed in wanted:
    if any((one['recipe'], one['seed']) == (recipe, seed) for one in known):
      logging.info('%s, seed %d: measured before, in %s', recipe, seed, path)
      continue
    known.append(_timed(recipe, seed))
    files.write_json(path, known)
  print(table([one for one in known if (one['recipe'], one['seed']) in wanted]))
  print(json.dumps(known))


def _timed(recipe: str, seed: int) -> dict[str, Any]:
  """Trains to the end, and tells how long it took."""
  # Generated now, and read from the cache by the run.
  build.puzzle_set(Settings.from_config(speedrun.get_config(recipe)))
  # Always a new one: a run that goes on would be timed in part.
  workdir = tempfile.mkdtemp(prefix=f'{recipe}_{seed}_', dir=FLAGS.out)
  typed = [
    '-m', 'experiments.train', f'--config=speedrun:{recipe}',
    f'--config.seed={seed}', f'--workdir={workdir}',
  ]  # fmt: skip
  if FLAGS.cpu_devices:
    typed.append(f'--cpu_devices={FLAGS.cpu_devices}')
  environment = {**os.environ}
  # Compilation counts.
  environment.pop('JAX_COMPILATION_CACHE_DIR', None)
  begin, before = time.monotonic(), _cpu_seconds()
  done = subprocess.run([sys.executable, *typed], env=environment, check=False)
  seconds, cpu = time.monotonic() - begin, _cpu_seconds() - before
  if done.returncode:
    raise ConfigError(
      f'python {" ".join(typed)} ended with {done.returncode}; see above'
    )
  config, facts = workdir_config.read(workdir)
  lines = training_curves.read(files.local(workdir) / 'metrics.jsonl')
  line = [one for one in lines if 'eval/exact' in one][-1]
  device = jax.devices()[0]
  return {
    'recipe': recipe,
    'seed': seed,
    'command': f'hrm-jax train {" ".join(typed[2:4])}',
    'reached': line['eval/exact'] >= config.stop_at_score,
    'exact': line['eval/exact'],
    'steps': line['step'],
    'seconds': round(seconds, 1),
    'cpu_seconds': round(cpu, 1),
    'data_version': facts['data_version'],
    'machine': f'{len(jax.devices())} × {device.device_kind}, '
    f'{os.cpu_count()} cores, {platform.machine()}',
  }


def _cpu_seconds() -> float:
  used = resource.getrusage(resource.RUSAGE_CHILDREN)
  return used.ru_utime + used.ru_stime


def table(measured: list[dict[str, Any]]) -> str:
  """A row for each recipe, the fastest first, in Markdown."""
  by_recipe: dict[str, list[dict[str, Any]]] = {}
  for one in measured:
    by_recipe.setdefault(one['recipe'], []).append(one)

  def mean(name: str, runs: list[dict[str, Any]]) -> float:
    return statistics.mean(run[name] for run in runs)

  def each(form: str, name: str, runs: list[dict[str, Any]]) -> str:
    return ', '.join(format(run[name], form) for run in runs)

  rows = [
    '| recipe | seconds | of each seed | CPU seconds | steps | exact |',
    '| --- | --- | --- | --- | --- | --- |',
  ]
  for recipe, runs in sorted(
    by_recipe.items(),
    key=lambda pair: (
      not all(run['reached'] for run in pair[1]),
      mean('seconds', pair[1]),
    ),
  ):
    missed = '' if all(run['reached'] for run in runs) else ' (not reached)'
    rows.append(
      f'| {recipe}{missed} | {mean("seconds", runs):.0f} '
      f'| {each(".0f", "seconds", runs)} | {mean("cpu_seconds", runs):.0f} '
      f'| {each("d", "steps", runs)} | {each(".1%", "exact", runs)} |'
    )
  return '\n'.join(rows)


if __name__ == '__main__':
  command.run(main, FLAGS, launch.start)
