"""Measures what training on many new tasks together gains over one by one.

  python -m tests.adapt_gain ROOT [SECONDS]

The ARC-AGI-2 training tasks that fit 6 × 6 are split: a model of the demo's
size learns all but twenty, then these twenty are learnt in each of four ways,
with three seeds (one where old tasks are mixed in): together in SECONDS (600),
or each in 60 steps, however long that takes. What is there already is not done
again, so that the command continues after a stop. On two idle cores it takes
about two hours.
"""

import dataclasses
import hashlib
import json
import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping

import jax

import hrm_jax
from data_pipelines.arc import tasks as arc
from hrm_jax.settings import Fitting

SIDE, HELD_OUT, BASE_STEPS, SEEDS = 6, 20, 1000, (0, 1, 2)
# On these the settings of `predict` were chosen.
_TUNED_ON = (
  '4cd1b7b2', '66e6c45b', '6ea4a07e', '833966f4', '87ab05b8', 'be03b35f',
  'ca8de6ea', 'e3fe1151', 'e633a9e5',
)  # fmt: skip
# The flags of `hrm-jax adapt`, None being one task after the other; the seeds.
WAYS: dict[str, tuple[list[str] | None, tuple[int, ...]]] = {
  'rows, then all': (['--rows_first=0.25'], SEEDS),
  'rows alone': (['--rows_first=1'], SEEDS),
  'rows alone, one by one': (None, SEEDS),
  'rows, then all, a quarter old tasks': (
    ['--rows_first=0.25', '--old_share=0.25'], SEEDS[:1],
  ),
}  # fmt: skip
_SCORES = {
  'pass@2': 'eval/pass@2/tasks',
  'pass@1': 'eval/pass@1/tasks',
  'cells': 'eval/accuracy',
}


def split(root: pathlib.Path) -> None:
  """Writes the tasks to `trained` and `held_out`, the latter by a digest."""
  tasks = [x for x in arc.load_tasks('arc2:training').tasks if x.fits(SIDE)]
  free = [task.name for task in tasks if task.name not in _TUNED_ON]
  free.sort(key=lambda name: hashlib.sha256(name.encode()).hexdigest())
  for part in ('trained', 'held_out'):
    (root / part).mkdir(parents=True, exist_ok=True)
  for task in tasks:
    part = 'held_out' if task.name in free[:HELD_OUT] else 'trained'
    path = root / part / f'{task.name}.json'
    path.write_text(json.dumps(arc.as_json(task)))


def _command(name: str, *flags: str) -> None:
  line = [
    sys.executable,
    '-m',
    f'experiments.{name}',
    *flags,
    '--cpu_devices=2',
  ]
  subprocess.run(line, check=True)


def _scores(metrics: Mapping[str, float]) -> dict[str, float]:
  return {short: metrics[name] for short, name in _SCORES.items()}


def _one_by_one(root: pathlib.Path, seed: int) -> dict[str, float]:
  solver = hrm_jax.load(root / 'base')
  found: list[dict[str, float]] = []
  for path in sorted((root / 'held_out').iterdir()):
    asked = solver.ask(str(path), Fitting('rows', steps=60, seed=seed))
    (query,) = asked.queries
    found.append(_scores(solver.evaluate(query).metrics))
    print(path.stem, found[-1], flush=True)
  return {name: statistics.mean(one[name] for one in found) for name in _SCORES}


def _old_tasks(base: hrm_jax.Solver, run: pathlib.Path) -> dict[str, float]:
  """The base's own held-out tests after a run: with its rows where they are."""
  new = hrm_jax.load(run)
  if new.settings.old_share:
    found = new.evaluate(list(base.puzzles.evaluation_tasks))
  else:
    (old,), (query,) = base.held_out().queries, new.held_out().queries
    found = base.evaluate(dataclasses.replace(old, variables=query.variables))
  return _scores(found.metrics)


def measure(root: pathlib.Path, seconds: float) -> dict[str, list[dict]]:
  """Scores of each way with each seed."""
  base = root / 'base'
  if not (root / 'held_out').exists():
    split(root)
  _command(
    'train', '--config=arc2:demo', f'--workdir={base}',
    f'--config.data.evaluate={root / "trained"}',
    f'--config.data.canvas={SIDE}', '--config.data.allow_leaks=True',
    '--config.data.unscored=()', f'--config.stop_at_step={BASE_STEPS}',
  )  # fmt: skip
  found: dict[str, list[dict]] = {way: [] for way in WAYS}
  for number, (way, (flags, seeds)) in enumerate(WAYS.items()):
    for seed in seeds:
      run = root / f'way_{number}_seed_{seed}'
      path = run.with_suffix('.json')
      if not path.exists():
        begin = time.monotonic()
        if flags is None:
          one = _one_by_one(root, seed)
          one['seconds'] = time.monotonic() - begin
        else:
          _command(
            'adapt', f'--workdir={base}', f'--task={root / "held_out"}',
            f'--seconds={seconds}', f'--seed={seed}', f'--out={run}', *flags,
          )  # fmt: skip
          one = {'seconds': time.monotonic() - begin}
          solver = hrm_jax.load(run)
          one |= _scores(solver.evaluate(str(root / 'held_out')).metrics)
          one |= {'steps': solver.step}
          old = _old_tasks(hrm_jax.load(base), run)
          one |= {f'old {name}': value for name, value in old.items()}
        path.write_text(json.dumps(one))
      found[way].append(json.loads(path.read_text()))
  return found


def main(directory: str, seconds: str = '600') -> None:
  """Prints a table in Markdown: mean (lowest … highest) of the seeds."""
  root = pathlib.Path(directory)
  # In this process as in the commands.
  jax.config.update('jax_num_cpu_devices', 2)
  found = measure(root, float(seconds))
  before = _scores(hrm_jax.load(root / 'base').evaluate().metrics)
  print('the old tasks before:', before)
  names = list(
    dict.fromkeys(name for ones in found.values() for name in ones[0])
  )
  print(f'| way | {" | ".join(names)} |\n|{" --- |" * (len(names) + 1)}')
  for way, ones in found.items():
    cells = []
    for name in names:
      values = [one[name] for one in ones if name in one]
      scale = 1 if name in ('seconds', 'steps') else 100
      cells.append(
        f'{scale * statistics.mean(values):.1f} ({scale * min(values):.1f} … '
        f'{scale * max(values):.1f})'
        if values
        else ''
      )
    print(f'| {way} | {" | ".join(cells)} |')


if __name__ == '__main__':
  main(*sys.argv[1:])
