"""Where metrics go: a JSONL file that survives restarts, and TensorBoard."""

import contextlib
import io
import itertools
import json
import os
import pathlib
import socket
import time
from typing import Any, BinaryIO

from absl import logging
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.summary.writer.record_writer import RecordWriter

from data_pipelines import files
from data_pipelines.errors import Abandoned, ConfigError
from hrm_jax.training.metrics_log import Metrics

# Seconds after which files in a bucket are written anew, for who looks on.
_SYNC_EVERY = 60


class MetricsWriter:
  """Writes DIR/metrics.jsonl, a line for each call, and TensorBoard events.

  Objects of a bucket know no append: there both are kept in memory and written
  whole by `sync`, which comes before each checkpoint that counts on them. What
  a killed run loses it trains again.
  """

  def __init__(self, workdir: str | pathlib.Path, active: bool = True):
    """Opens or makes them; not `active`, but in the first process, nothing."""
    self._active = active
    workdir = files.place(workdir)
    self._path = workdir / 'metrics.jsonl'
    # The lines that a bucket has, or will have.
    self._kept: bytes | None = None
    if not active:
      return
    name = f'{time.time():.6f}.{socket.gethostname()}.{os.getpid()}'
    self._events = workdir / 'tensorboard' / f'events.out.tfevents.{name}'
    self._file: BinaryIO
    with _writing(self._events):
      self._events.parent.mkdir(exist_ok=True)
      if files.is_local(workdir):
        self._file = self._events.open('ab', buffering=0)
      else:
        self._kept, self._synced = b''.join(self._lines()), time.monotonic()
        self._file = io.BytesIO()
      self._event(file_version='brain.Event:2')

  def write(self, step: int, metrics: Metrics) -> None:
    """Adds the metrics of a step; on a disk they are safe when it returns."""
    if not self._active:
      return
    line = json.dumps({'step': step, **metrics}) + '\n'
    if self._kept is not None:
      self._kept += line.encode()
    else:
      with _writing(self._path), self._path.open('a') as file:
        file.write(line)
        file.flush()
        # A checkpoint counts on them.
        os.fsync(file.fileno())
    values = [
      summary_pb2.Summary.Value(tag=name, simple_value=value)
      for name, value in metrics.items()
    ]
    with _writing(self._events):
      self._event(step=step, summary=summary_pb2.Summary(value=values))
    if self._kept is not None and time.monotonic() > self._synced + _SYNC_EVERY:
      self.sync()

  def sync(self) -> None:
    """Makes sure that all is kept, whatever happens to this process."""
    if self._kept is None:
      return
    with _writing(self._path):
      self._path.write_bytes(self._kept)
    with _writing(self._events):
      self._file.seek(0)
      self._events.write_bytes(self._file.read())
    self._synced = time.monotonic()

  def _event(self, **fields) -> None:
    event = event_pb2.Event(wall_time=time.time(), **fields)
    RecordWriter(self._file).write(event.SerializeToString())

  def close(self) -> None:
    """Closes what is open; nothing is left to be written."""
    if self._active:
      self.sync()
      self._file.close()

  def __enter__(self) -> 'MetricsWriter':
    return self

  def __exit__(self, kind: type[BaseException] | None, *_) -> None:
    """Closes it; where another has the workdir, nothing is written any more."""
    if kind is None:
      self.close()
    elif not issubclass(kind, Abandoned):
      # The first error tells.
      with contextlib.suppress(ConfigError):
        self.close()

  def forget_after(self, step: int, lines: int) -> int:
    """Goes back to the lines of steps up to this one: others come again.

    Args:
      step: step of the checkpoint that is gone on from.
      lines: number of lines that it knows of, to tell what is missing.

    Returns:
      How many there are now: of a step one of training, one of an evaluation.
    """
    if not self._active:
      return lines
    found = self._lines()
    kept, forgotten = dict[tuple[int, bool], bytes](), []
    for line in found:
      fields = _fields(line)
      if fields and fields['step'] > step:
        forgotten.append(fields['step'])
      elif fields:
        kept.setdefault((fields['step'], _is_evaluation(fields)), line)
    if len(kept) < lines:
      steps = sorted({0, step, *(of_step for of_step, _ in kept)})
      gap = max(itertools.pairwise(steps), key=lambda pair: pair[1] - pair[0])
      logging.warning(
        '%s: %d of the %d lines that the checkpoint knows of are missing or '
        'damaged (the widest gap is from step %d to %d): what they told is '
        'lost, training goes on',
        self._path, lines - len(kept), lines, *gap,
      )  # fmt: skip
    cut_off = bool(found) and not found[-1].endswith(b'\n')
    if forgotten or cut_off:
      logging.info(
        '%d lines of %s will be written anew%s', len(forgotten) + cut_off,
        self._path, '; the last was cut off' if cut_off else '',
      )  # fmt: skip
    with _writing(self._path):
      if self._kept is not None:
        self._kept = b''.join(kept.values())
      elif [*kept.values()] != found:
        with files.replacing(self._path) as part:
          part.write_bytes(b''.join(kept.values()))
      if forgotten:
        # TensorBoard drops what it has of this step and later ones.
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._event(step=min(forgotten), session_log=start)
    self.sync()
    return len(kept)

  def evaluation_of(self, step: int) -> Metrics | None:
    """The metrics of the evaluation of a step, if that is written down."""
    for fields in filter(None, map(_fields, self._lines())):
      if fields['step'] == step and _is_evaluation(fields):
        return fields
    return None

  def _lines(self) -> list[bytes]:
    if self._kept is not None:
      return self._kept.splitlines(keepends=True)
    try:
      return self._path.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
      return []
    except files.errors() as error:
      raise ConfigError(
        f'{self._path}: cannot be read ({files.reason(error)}); make it '
        'readable'
      ) from None


def _fields(line: bytes) -> dict[str, Any] | None:
  """A line's numbers by name, its step among them; None where it is damaged."""
  try:
    fields = json.loads(line) if line.endswith(b'\n') else {}
    step = fields['step']
    # TensorBoard's steps have 64 bits.
    return fields if type(step) is int and 0 <= step < 2**63 else None
  except (ValueError, KeyError, TypeError, RecursionError):
    return None


def _is_evaluation(fields: dict[str, Any]) -> bool:
  return any(name.startswith('eval/') for name in fields)


def _writing(path: pathlib.Path) -> contextlib.AbstractContextManager:
  fix = 'free some space and start the same command again'
  return files.writing(f'{path}:', fix)
