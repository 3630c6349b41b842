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

  def __init__(self, workdir: str | pathlib.Path, active: bool = True):
    """Opens or makes them.

    Args:
      workdir: of the run.
      active: False in all processes but the first, to write nothing.
    """
    self._active = active
    if not active:
      return
    workdir = pathlib.Path(workdir)
    self._path = workdir / 'metrics.jsonl'
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

  def forget_after(self, lines: int) -> None:
    """Goes back to the first so many lines: the others will come again."""
    if not self._active or not self._path.exists():
      return
    found = self._path.read_text().splitlines(keepends=True)
    if len(found) > lines:
      logging.info(
        '%d lines of %s will be written anew', len(found) - lines, self._path
      )
      files.write_text(self._path, ''.join(found[:lines]))
