"""Metrics to Weights & Biases too, for those who ask: `train --wandb=PROJECT`.

Without the flag nothing of it is imported. WANDB_MODE=offline needs no account:
the run is kept in DIR/wandb, and `wandb sync` sends it one day.
"""

import importlib.util
import pathlib
import uuid
from typing import Any

from data_pipelines import files
from data_pipelines.errors import ConfigError, first_line
from hrm_jax.parallel import preemption
from hrm_jax.training.loop import Preempted
from hrm_jax.training.metrics_log import Metrics


def check() -> None:
  """Raises ConfigError where the package is not installed."""
  if importlib.util.find_spec('wandb') is None:
    raise ConfigError(
      '--wandb: the package wandb is not installed; '
      "`pip install -e '.[wandb]'`, or leave the flag away"
    )


class Tracker:
  """One run there for one workdir, however often it is started."""

  def __init__(
    self, project: str, workdir: pathlib.Path, config: dict[str, Any]
  ):
    """Starts the run, or goes on with it; its workdir keeps its identifier."""
    import wandb

    try:
      identifier = workdir / 'wandb' / 'run_id'
      identifier.parent.mkdir(exist_ok=True)
      if not identifier.exists():
        identifier.write_text(uuid.uuid4().hex)
      self._run = wandb.init(
        project=project,
        dir=workdir if files.is_local(workdir) else files.cache_folder(),
        id=identifier.read_text(),
        name=workdir.name,
        resume='allow',
        config=config,
        # Ours are said to the terminal already, and there is no code to keep.
        settings=wandb.Settings(silent=True, console='off', disable_git=True),
      )
    except files.errors(wandb.Error) as error:
      reason = first_line(error)
      raise ConfigError(
        f'--wandb={project}: does not start ({reason}); `wandb login`, set '
        'WANDB_MODE=offline, or leave the flag away'
      ) from None
    # Lines that come again after a kill lie at their step, not after the last.
    self._run.define_metric('step', hidden=True)
    self._run.define_metric('*', step_metric='step')

  def write(self, step: int, metrics: Metrics) -> None:
    """Adds the metrics of a step."""
    self._run.log({'step': step, **metrics})

  def __enter__(self) -> 'Tracker':
    return self

  def __exit__(self, kind: type[BaseException] | None, *_) -> None:
    """Waits until they are sent or, offline, on the disk."""
    code = preemption.EXIT_CODE if kind is Preempted else int(kind is not None)
    self._run.finish(exit_code=code)
