"""A trace of some steps of a run, for TensorBoard's profiler and xprof."""

import pathlib
import tempfile

import jax
from absl import logging

from data_pipelines import files
from data_pipelines.errors import ConfigError


class Profile:
  """Traces the steps of a run from `first` to `last`, both included.

  Args:
    first: number of the first step, counted from 1 as in the log.
    last: number of the last one.
    directory: gets plugins/profile/TIME/, which both read.

  Attributes:
    bounds: numbers of steps done when the trace begins and ends.
  """

  def __init__(self, first: int, last: int, directory: pathlib.Path):
    self._directory = directory
    # Where the trace that runs is written, from there to the directory.
    self._scratch: tempfile.TemporaryDirectory | None = None
    self.bounds = first - 1, last

  def check(self, begin: int, end: int) -> None:
    """Raises ConfigError where a run from step to step lacks some of them."""
    first, last = self.bounds
    if not begin <= first < last <= end:
      raise ConfigError(
        f'--profile={first + 1}:{last} is outside of this run, which takes '
        f'the steps {begin + 1} to {end}; name some of these'
      )

  def at(self, step: int) -> None:
    """Begins or ends the trace where so many steps are done."""
    self.close()
    if step == self.bounds[0]:
      options = jax.profiler.ProfileOptions()
      # Each call of a Python function would be an event.
      options.python_tracer_level = 0
      self._scratch = tempfile.TemporaryDirectory()
      jax.profiler.start_trace(self._scratch.name, profiler_options=options)

  def close(self) -> None:
    """Writes the trace, where one has begun."""
    if not self._scratch:
      return
    jax.profiler.stop_trace()
    with self._scratch as folder:
      self._scratch = None
      try:
        with files.writing(self._directory, 'training goes on without a trace'):
          for name in files.names(pathlib.Path(folder)):
            target = self._directory / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(pathlib.Path(folder, name).read_bytes())
      except ConfigError as error:
        logging.warning('%s', error)
      else:
        logging.info('A trace of steps is in %s', self._directory)
