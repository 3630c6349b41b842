"""Packs a checkpoint and its wheels for an offline contest.

  hrm-jax bundle --workdir=DIR [--step=N] --out=NEW [--python_version=3.11]
      [--platform=manylinux_2_28_x86_64] [--accelerator=none|cuda12|tpu]

NEW gets all that a machine without a network needs beside Python: wheels, the
checkpoint in the form of `hrm-jax export --format=package`, and solve.py, which
installs them there, runs `hrm-jax adapt` on the contest's tasks and writes
submission.json. solve.ipynb does so in a notebook. See docs/how_to/contest.md.
"""

import datetime
import json
import os
import pathlib
import shutil

from absl import flags, logging

import hrm_jax.solver
from data_pipelines import files
from data_pipelines.errors import ConfigError
from experiments import export
from experiments.cli import command, launch, shared_flags
from experiments.contest import wheels
from hrm_jax.settings import Fitting
from hrm_jax.solver import Solver

FLAGS = shared_flags.define('workdir', 'step', *shared_flags.JAX)
shared_flags.path('out', None, 'Directory that is made and written.', FLAGS)
shared_flags.require(FLAGS, 'out', 'contest')
flags.DEFINE_string(
  'python_version', wheels.python_here(), 'Version of Python on the other '
  'machine, by default that of this one.', flag_values=FLAGS,
)  # fmt: skip
flags.DEFINE_string(
  'platform', wheels.PLATFORM, 'Platform of the other machine, a Linux: '
  'wheels for it and for older ones are taken.', flag_values=FLAGS,
)  # fmt: skip
flags.DEFINE_enum(
  'accelerator', 'none', ('none', 'cuda12', 'tpu'), 'Hardware beside the CPU '
  'that wheels are fetched for.', flag_values=FLAGS,
)  # fmt: skip
shared_flags.path(
  'wheel', None, 'Wheel of this project; built from the sources that run this '
  'command if unset.', FLAGS,
)  # fmt: skip

_CONTEST = pathlib.Path(wheels.__file__).parent
_README = """\
# {source}, step {step}, for a contest

Made by `hrm-jax bundle` (HRM-JAX {version}) for Python {python} on {platform};
accelerator: {accelerator}. Nothing here needs a network.

    python solve.py --challenges=arc-agi_test_challenges.json \\
        --seconds=39600 --out=submission.json

installs the wheels into an environment of its own, trains the checkpoint
further on the tasks (a grid has at most {canvas} x {canvas} cells), and writes
two attempts for each test input. `python solve.py --help` lists the flags;
those of `hrm-jax adapt` may follow. On Kaggle, attach this directory as a
dataset and run solve.ipynb: outside of the contest's rerun it answers a few
tasks only.
"""


def main(_) -> None:
  run(
    FLAGS.workdir, FLAGS.out, FLAGS.step, FLAGS.python_version, FLAGS.platform,
    FLAGS.accelerator, FLAGS.wheel,
  )  # fmt: skip


def run(
  workdir: pathlib.Path,
  out: pathlib.Path,
  step: int | None = None,
  python: str | None = None,
  platform: str = wheels.PLATFORM,
  accelerator: str = 'none',
  wheel: pathlib.Path | None = None,
) -> None:
  """Writes a bundle, whole or not at all; arguments are the command's flags.

  Raises:
    ConfigError, DataError: there is no such checkpoint, it cannot be adapted to
      new tasks, or a wheel cannot be found.
  """
  python = python or wheels.python_here()
  wheels.check_python(python)
  platforms = wheels.tags(platform)
  if out.exists() and not (out.is_dir() and not any(out.iterdir())):
    raise ConfigError(f'--out={out}: is there already; name a new directory')
  if wheel and not (wheel.suffix == '.whl' and wheel.is_file()):
    raise ConfigError(f'--wheel={wheel}: is no wheel; name a file FILE.whl')
  solver = _adaptable(workdir, step)
  if python != wheels.python_here():
    logging.warning(
      'pip decides by the Python that runs this, %s, which packages are needed '
      'on some versions of Python only; where one is missing on Python %s, run '
      'this with that', wheels.python_here(), python,
    )  # fmt: skip
  part = out.with_name(f'{out.name}.{os.getpid()}.part')
  try:
    export.write_package(solver, part / 'checkpoint')
    with command.writing(part / 'wheels' / 'FILE'):
      if wheel:
        project = pathlib.Path(shutil.copy(wheel, part / 'wheels'))
      else:
        project = wheels.build(part / 'wheels')
    extra = accelerator if accelerator != 'none' else ''
    wheels.fetch(project, extra, python, platforms)
    with command.writing(part / 'bundle.json'):
      facts = {
        'python': python,
        'platform': platform,
        'accelerator': accelerator,
        'requirement': f'hrm-jax[{extra}]' if extra else 'hrm-jax',
        'source': solver.origin.absolute().name,
        'step': solver.step,
        'canvas': solver.canvas,
        'version': hrm_jax.__version__,
        'made': datetime.datetime.now(datetime.UTC).isoformat(),
      }
      files.write_text(part / 'bundle.json', json.dumps(facts, indent=2) + '\n')
      files.write_text(part / 'README.md', _README.format(**facts))
      for name in ('solve.py', 'solve.ipynb'):
        shutil.copy(_CONTEST / name, part)
      part.replace(out)
  finally:
    shutil.rmtree(part, ignore_errors=True)
  found = [path.stat().st_size for path in (out / 'wheels').iterdir()]
  packed = sum(path.stat().st_size for path in (out / 'checkpoint').iterdir())
  command.say(
    f'Written to {out}: {len(found)} wheels ({sum(found) / 1e6:,.1f} MB), '
    f'checkpoint ({packed / 1e6:,.1f} MB), solve.py, solve.ipynb'
  )


def _adaptable(workdir: pathlib.Path, step: int | None) -> Solver:
  """The solver of a checkpoint, if it can be adapted to tasks of ARC."""
  solver = hrm_jax.solver.load(workdir, step)
  if solver.sizes:
    raise ConfigError(
      f'{workdir}: a file of the published code cannot be packed; make a run '
      'of it first with hrm-jax convert'
    )
  # Refuses one that has no rows.
  solver.further(Fitting())
  return solver


if __name__ == '__main__':
  command.run(main, FLAGS, launch.start)
