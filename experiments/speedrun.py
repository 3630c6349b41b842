"""Times how long recipes take to a score on fixed puzzles.

  hrm-jax speedrun [--recipe=CONFIG ...] [--seeds=0,1,2] [--out=DIR]

A recipe is a config that `hrm-jax train` takes and that ends at a score
(stop_at_score), such as speedrun:hrm or a file of yours. Each is trained with
each seed, in a process of its own. What is measured is that whole process: its
start, its compilation, all evaluations and the checkpoint at its end; the
puzzles were generated before. A table in Markdown is printed for each score and
set of held-out puzzles. The runs lie in DIR, and DIR/speedrun.json has what was
measured. Started again, the command takes over what that file has, and measures
the rest.
"""

import dataclasses
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

import jax
from absl import flags, logging

from data_pipelines import files
from data_pipelines.errors import ConfigError
from experiments.cli import command, launch, shared_flags
from experiments.reporting import comparison, runs
from hrm_jax import build
from hrm_jax.settings import Settings

_HEADER = (
  'recipe', 'seconds', 'of each seed', 'CPU seconds', 'steps', 'score',
)  # fmt: skip
FLAGS = shared_flags.define(*shared_flags.JAX)
flags.DEFINE_multi_string(
  'recipe', ['speedrun:fastest'], 'Config to time, such as speedrun:hrm; the '
  'flag may be repeated.', flag_values=FLAGS,
)  # fmt: skip
flags.DEFINE_list(
  'seeds', '0,1,2', 'Seeds that each recipe is timed with.', flag_values=FLAGS,
)  # fmt: skip
shared_flags.path(
  'out', 'runs/speedrun', 'Directory of the runs and their times.', FLAGS
)


@dataclasses.dataclass(frozen=True)
class Timed:
  """What a recipe took with a seed, in seconds, and which score it had."""

  recipe: str
  seed: int
  command: str
  held_out: str
  metric: str
  wanted: float
  score: float
  steps: int
  seconds: float
  cpu_seconds: float
  commit: str | None
  machine: str


def main(_) -> None:
  if not all(seed.isdecimal() for seed in FLAGS.seeds):
    raise ConfigError(f'--seeds={",".join(FLAGS.seeds)} must be whole numbers')
  recipes = {name: _settings(name) for name in FLAGS.recipe}
  with command.writing(FLAGS.out / 'speedrun.json') as path:
    known = _read(path)
  wanted = [(name, int(seed)) for name in recipes for seed in FLAGS.seeds]
  for name, seed in wanted:
    if any((one.recipe, one.seed) == (name, seed) for one in known):
      logging.info('%s, seed %d: measured before, in %s', name, seed, path)
      continue
    known.append(_timed(name, recipes[name], seed))
    files.write_json(path, [dataclasses.asdict(one) for one in known])
  print(report([one for one in known if (one.recipe, one.seed) in wanted]))


def _read(path: pathlib.Path) -> list[Timed]:
  if not path.exists():
    return []
  try:
    return [Timed(**one) for one in files.parse_json(files.read(path), path)]
  except TypeError as error:
    raise ConfigError(
      f'{path}: not what this command writes ({error}); use another --out'
    ) from None


def _settings(recipe: str) -> Settings:
  try:
    config = shared_flags.load_config(recipe)
  except ValueError as error:
    raise ConfigError(f'--recipe={recipe}: {error}') from None
  settings = Settings.from_config(config)
  if not settings.stop_at_score:
    raise ConfigError(
      f'--recipe={recipe}: has no score to reach; set stop_at_score in it'
    )
  return settings


def _timed(recipe: str, settings: Settings, seed: int) -> Timed:
  """Trains to the end, and tells how long it took."""
  # Generated now, and read from the cache by the run.
  build.puzzle_set(settings)
  # Always a new one: a run that goes on would be timed in part.
  workdir = tempfile.mkdtemp(prefix=f'seed_{seed}_', dir=FLAGS.out)
  typed = [f'--config={recipe}', f'--config.seed={seed}']
  options = [f'--workdir={workdir}']
  if FLAGS.cpu_devices:
    options.append(f'--cpu_devices={FLAGS.cpu_devices}')
  begin, before = time.monotonic(), _cpu_seconds()
  # Compilation counts: of what was compiled before, nothing is at hand.
  with tempfile.TemporaryDirectory() as empty:
    done = subprocess.run(
      [sys.executable, '-m', 'experiments.train', *typed, *options],
      env=os.environ | {'JAX_COMPILATION_CACHE_DIR': empty},
      check=False,
    )
  seconds, cpu = time.monotonic() - begin, _cpu_seconds() - before
  if done.returncode:
    raise ConfigError(
      f'--recipe={recipe}: its training ended with exit code '
      f'{done.returncode}; what it said stands above'
    )
  (run,) = runs.read_all([workdir])
  line, score = run.evaluations[-1], f'eval/{settings.best_metric}'
  device = jax.devices()[0].device_kind
  return Timed(
    recipe=recipe,
    seed=seed,
    command=f'hrm-jax train {" ".join(typed)}',
    held_out=run.held_out,
    metric=settings.best_metric,
    wanted=settings.stop_at_score,
    score=line[score],
    steps=int(line['step']),
    seconds=round(seconds, 1),
    cpu_seconds=round(cpu, 1),
    commit=command.commit(),
    machine=f'{jax.device_count()} × {device}, {command.cores()} cores',
  )


def _cpu_seconds() -> float:
  used = resource.getrusage(resource.RUSAGE_CHILDREN)
  return used.ru_utime + used.ru_stime


def report(measured: Sequence[Timed]) -> str:
  """A table for each race, the fastest recipe first, in Markdown."""
  races: dict[str, dict[str, list[Timed]]] = {}
  for one in measured:
    race = f'{one.metric} ≥ {one.wanted:.0%}, {one.held_out}'
    races.setdefault(race, {}).setdefault(one.recipe, []).append(one)
  return '\n\n'.join(
    f'{race}\n\n{_table(recipes)}' for race, recipes in races.items()
  )


def _table(recipes: dict[str, list[Timed]]) -> str:
  rows = []
  for recipe, timed in recipes.items():
    reached = all(one.score >= one.wanted for one in timed)
    seconds = statistics.mean(one.seconds for one in timed)
    row = (
      f'{recipe}{"" if reached else ", not reached"}',
      f'{seconds:.0f}',
      ', '.join(f'{one.seconds:.0f}' for one in timed),
      f'{statistics.mean(one.cpu_seconds for one in timed):.0f}',
      ', '.join(str(one.steps) for one in timed),
      ', '.join(f'{one.score:.1%}' for one in timed),
    )
    rows.append((not reached, seconds, row))
  return comparison.table(_HEADER, [row for *_, row in sorted(rows)])


if __name__ == '__main__':
  command.run(main, FLAGS, launch.start)
