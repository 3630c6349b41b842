"""Where metrics go: a JSONL file that survives restarts, and TensorBoard."""

import contextlib
import json
import os
import pathlib
import socket
import time

from absl import logging
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.summary.writer.record_writer import RecordWriter

from data_pipelines import files
from data_pipelines.errors import ConfigError
from hrm_jax.training.metrics_log import Metrics


class MetricsWriter:
  """Writes DIR/metrics.jsonl, a line for each call, and TensorBoard events."""

  def __init__(self, workdir: str | pathlib.Path, active: bool = True):
    """Opens or makes them; not `active`, but in the first process, nothing."""
    self._active = active
    if not active:
      return
    workdir = pathlib.Path(workdir)
    self._path = workdir / 'metrics.jsonl'
    name = f'{time.time():.0f}.{socket.gethostname()}.{os.getpid()}'
    self._events = workdir / 'tensorboard' / f'events.out.tfevents.{name}'
    with _writing(self._events):
      self._events.parent.mkdir(exist_ok=True)
      self._file = self._events.open('ab', buffering=0)
      self._event(file_version='brain.Event:2')

  def write(self, step: int, metrics: Metrics) -> None:
    """Adds the metrics of a step; they are on the disk when it returns."""
    if not self._active:
      return
    with _writing(self._path), self._path.open('a') as file:
      file.write(json.dumps({'step': step, **metrics}) + '\n')
      file.flush()
      # A checkpoint says how many lines there are.
      os.fsync(file.fileno())
    values = [
      summary_pb2.Summary.Value(tag=name, simple_value=value)
      for name, value in metrics.items()
    ]
    with _writing(self._events):
      self._event(step=step, summary=summary_pb2.Summary(value=values))

  def _event(self, **fields) -> None:
    event = event_pb2.Event(wall_time=time.time(), **fields)
    RecordWriter(self._file).write(event.SerializeToString())

  def close(self) -> None:
    """Closes what is open; nothing is left to be written."""
    if self._active:
      self._file.close()

  def forget_after(self, lines: int) -> int:
    """Goes back to so many lines, the others will come; how many are whole."""
    if not self._active:
      return lines
    try:
      found = self._path.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
      found = []
    except OSError as error:
      raise ConfigError(
        f'{self._path}: cannot be read ({error.strerror}); make it readable'
      ) from None
    known, forgotten = found[:lines], found[lines:]
    kept = [line for line in known if _step(line) is not None]
    if len(kept) < lines:
      logging.warning(
        '%s: %d of the %d lines that the checkpoint knows of are missing or '
        'damaged: what they told is lost, training goes on',
        self._path, lines - len(kept), lines,
      )  # fmt: skip
    if forgotten:
      logging.info(
        '%d lines of %s will be written anew%s', len(forgotten), self._path,
        '' if _step(forgotten[-1]) is not None else '; the last was cut off',
      )  # fmt: skip
    with _writing(self._path):
      if kept != found:
        with files.replacing(self._path) as part:
          part.write_bytes(b''.join(kept))
      steps = [step for step in map(_step, forgotten) if step is not None]
      if steps:
        # TensorBoard drops what it has of this step and later ones.
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._event(step=min(steps), session_log=start)
    return len(kept)


def _step(line: bytes) -> int | None:
  """The step that a line is about; None where it is not whole."""
  try:
    return int(json.loads(line)['step']) if line.endswith(b'\n') else None
  except (ValueError, KeyError, TypeError):
    return None


def _writing(path: pathlib.Path) -> contextlib.AbstractContextManager:
  fix = 'free some space and start the same command again'
  return files.writing(f'{path}:', fix)
