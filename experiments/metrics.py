"""Where metrics go: a JSONL file that survives restarts, and TensorBoard."""

import json
import pathlib

from absl import logging

from data_pipelines import files, quiet
from hrm_jax.training import Metrics

quiet.tensorflow()  # clu would import it with all its start-up notes.
from clu import metric_writers  # noqa: E402


class MetricsWriter:
  """Writes DIR/metrics.jsonl, a line for each call, and TensorBoard events."""

  def __init__(
    self, workdir: str | pathlib.Path, step: int, active: bool = True
  ):
    """Goes on after `step`: later lines are of steps that will come again.

    Args:
      workdir: of the run.
      step: of the checkpoint that the run goes on from.
      active: False in all processes but the first, to write nothing.
    """
    self._active = active
    if not active:
      return
    workdir = pathlib.Path(workdir)
    self._path = workdir / 'metrics.jsonl'
    self._keep_until(step)
    self._tensorboard = metric_writers.SummaryWriter(
      str(workdir / 'tensorboard')
    )

  def write(self, step: int, metrics: Metrics) -> None:
    """Adds the metrics of a step."""
    if not self._active:
      return
    with self._path.open('a') as file:
      file.write(json.dumps({'step': step, **metrics}) + '\n')
    self._tensorboard.write_scalars(step, metrics)

  def close(self) -> None:
    """Writes out what TensorBoard still holds."""
    if self._active:
      self._tensorboard.close()

  def _keep_until(self, step: int) -> None:
    if not self._path.exists():
      return
    lines, kept = self._path.read_text().splitlines(), []
    for line in lines:
      try:
        if json.loads(line)['step'] <= step:
          kept.append(line + '\n')
      except (ValueError, KeyError):
        # Cut off in mid-line when the last run was killed.
        continue
    if len(kept) == len(lines):
      return
    logging.info(
      'Going on after step %d: %d later lines of %s will be written anew',
      step,
      len(lines) - len(kept),
      self._path,
    )
    files.write_text(self._path, ''.join(kept))
