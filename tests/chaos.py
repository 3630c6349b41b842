"""Disturbs a small training run at random and compares it with one in peace.

  python -m tests.chaos [--seconds=180] [--events=N] [--kinds=KIND,...]
      [--seed=0] [--processes=2] [--workdir=DIR] [--bucket]

One run is left alone. The other, the same command in another directory, is
killed, signalled, finds its newest checkpoint damaged or its disk full, each
time at another moment of its life, and is started again until it has ended.
Both must end with the same: configuration, lines of metrics, checkpoints bit
for bit. On the way, all that is promised of a disturbed run is checked. Prints
a line for each event; the exit code is 0 if all was well, else 1, and then the
directories stay. With --bucket the disturbed run's is in a bucket, of a server
that is started here.
"""

import collections
import contextlib
import dataclasses
import datetime
import json
import os
import pathlib
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence

# Before JAX, which it keeps quiet.
from experiments.cli import command, shared_flags

# isort: split
import jax
import numpy as np
from absl import flags, logging

from data_pipelines import files
from data_pipelines.errors import ConfigError
from hrm_jax import build
from hrm_jax.parallel import preemption
from hrm_jax.training import step as train_step
from hrm_jax.workdir import checkpoints
from hrm_jax.workdir import config as workdir_config
from tests import buckets, disks

KINDS = ('kill', 'signal', 'double_signal', 'truncate', 'fill')
FLAGS = shared_flags.define('seed', workdir=None)
_SECONDS = flags.DEFINE_float(
  'seconds', 180, 'Time in seconds for which the run is disturbed.',
  flag_values=FLAGS,
)  # fmt: skip
_EVENTS = flags.DEFINE_integer(
  'events', None, 'Number of events, which replaces --seconds.',
  flag_values=FLAGS,
)  # fmt: skip
_KINDS = flags.DEFINE_list(
  'kinds', list(KINDS), f'Kinds of events, out of {", ".join(KINDS)}.',
  flag_values=FLAGS,
)  # fmt: skip
_PROCESSES = flags.DEFINE_integer(
  'processes', 1, 'Number of processes of each run.', flag_values=FLAGS
)
_BUCKET = flags.DEFINE_bool(
  'bucket', False, 'Whether the disturbed run is in a bucket.',
  flag_values=FLAGS,
)  # fmt: skip
_COLD = flags.DEFINE_bool(
  'cold', True, 'Whether the disturbed run compiles.', flag_values=FLAGS
)

_ROOT = pathlib.Path(__file__).parents[1]
_LOG_EVERY, _EVALUATE_EVERY, _CHECKPOINT_EVERY = 4, 20, 30
# Real puzzles with rows of their own, several segments each, an average of the
# weights, a best one so far: all that a run has to remember. Lines of metrics
# span checkpoints, and the best are at other steps than those.
_EXPERIMENT = (
  '--config=experiments/configs/arc1.py:demo',
  '--config.data.num_aug=3',
  '--config.batch_size=8',
  # Whatever the length, it is compiled but once.
  '--config.total_steps=1000000',
  f'--config.log_every={_LOG_EVERY}',
  f'--config.evaluate_every={_EVALUATE_EVERY}',
  f'--config.checkpoint_every={_CHECKPOINT_EVERY}',
  '--config.keep_checkpoints=3',
  '--config.keep_best=1',
  '--config.best_metric=accuracy',
  '--config.model.hidden_size=16',
  '--config.model.num_heads=2',
  '--config.model.H_layers=1',
  '--config.model.L_layers=1',
  '--config.model.puzzle_emb_ndim=16',
  '--config.act.halt_max_steps=4',
  '--config.act.halting=q_learning',
  '--config.optimizer.ema_decay=0.9',
  '--config.evaluation.batch_size=16',
  '--config.evaluation.max_augmentations=1',
  '--config.evaluation.max_puzzles=10',
)
# On average between two events; and a multiple of all intervals.
_STEPS_AN_EVENT = 40
_ROUND = 60
# What a process may be doing, and how many seconds that takes; the first two
# are guesses until a start has told. Training is from one line to the next.
_PHASES = {
  'start-up': 8.0,
  'compiling': 4.0,
  'training': 0.1,
  'saving': 0.3,
  'evaluating': 0.3,
}
# Seconds that an event takes, before that is known; that a signal may take to
# end a run; that anything else may take.
_AN_EVENT, _AN_END, _A_MOMENT = 12.0, 30.0, 300.0
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# Of orbax: nothing is restored from these, and they are not in SHA256SUMS.
_UNUSED = ('_CHECKPOINT_METADATA', 'commit_success.txt')


class Stuck(Exception):
  """What must come did not come."""


class Start:
  """The training command, started once: one process or several.

  Attributes:
    lines: that the first process has written so far.
    first: step that training begins with; None as long as it has not.
    step: of the last line of metrics; None before there is one.
    durations: of the phases that are over, in seconds.
  """

  def __init__(
    self,
    workdir: pathlib.Path,
    steps: int,
    processes: int,
    log: pathlib.Path,
    compiled: pathlib.Path | None = None,
    objects: pathlib.Path | None = None,
  ):
    """Starts it.

    Args:
      workdir: of the run.
      steps: its length.
      processes: how many.
      log: file for what the first one writes; the others' are beside it.
      compiled: of programs; None for where they always are.
      objects: files of the bucket that the workdir is in, if it is.
    """
    self._in_bucket = objects is not None
    self._saved = (objects or workdir.parent) / workdir.name / 'checkpoints'
    # What a kill left is removed, not written.
    self._stale = self._unfinished()
    self.lines, self.first, self.step = [], None, None
    self.durations = {}
    environment = os.environ | {'JAX_PLATFORMS': 'cpu'}
    if compiled:
      environment['JAX_COMPILATION_CACHE_DIR'] = str(compiled)
    arguments = [sys.executable, '-m', 'experiments.train', *_EXPERIMENT]
    arguments += [f'--config.stop_at_step={steps}', f'--workdir={workdir}']
    if processes > 1:
      arguments += [
        f'--coordinator=localhost:{_free_port()}',
        f'--num_processes={processes}',
      ]
    self.begun = time.monotonic()
    self._processes = []
    for number in range(processes):
      which = [f'--process_id={number}'] if processes > 1 else []
      with log.with_name(f'{log.name}.{number}').open('w') as others:
        self._processes.append(
          subprocess.Popen(
            [*arguments, *which],
            cwd=_ROOT,
            env=environment,
            stdout=others if number else subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # Ctrl-C is for this program.
            start_new_session=True,
          )
        )
    self._reader = threading.Thread(target=self._read, args=(log,))
    self._reader.start()

  def _read(self, log: pathlib.Path) -> None:
    with log.open('w') as file:
      for line in self._processes[0].stdout:
        now = time.monotonic()
        if found := re.match(r'step (\d+)/', line):
          if self.step is None:
            began = sum(self.durations.values())
            self.durations['compiling'] = now - self.begun - began
          self.step = int(found[1])
        elif found := re.match(r'Training steps (\d+) to', line):
          self.durations['start-up'] = now - self.begun
          self.first = int(found[1])
        file.write(f'{now - self.begun:8.3f}  {line}')
        file.flush()
        self.lines.append(line.rstrip())

  def wait(self, condition: Callable[[], bool], seconds: float) -> bool:
    """Until it holds: True; or until the time is up or the run has ended."""
    end = time.monotonic() + seconds
    while not condition():
      if self.ended() or time.monotonic() > end:
        return condition()
      time.sleep(0.005)
    return True

  def wait_for(self, condition: Callable[[], bool]) -> bool:
    """As `wait`; raises Stuck where neither comes."""
    if not self.wait(condition, _A_MOMENT) and not self.ended():
      raise Stuck(f'nothing happened for {_A_MOMENT:.0f} s')
    return condition()

  def ended(self) -> bool:
    return self._processes[0].poll() is not None

  def send(self, number: int, which: Sequence[int] = ()) -> None:
    """A signal, to the processes of these numbers or to all."""
    for process in [self._processes[n] for n in which] or self._processes:
      process.send_signal(number)

  def codes(self, seconds: float) -> list[int | None]:
    """Exit codes of all processes; None of those that do not end in time."""
    end = time.monotonic() + seconds
    codes = []
    for process in self._processes:
      with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(max(0.0, end - time.monotonic()))
      codes.append(process.poll())
    return codes

  def close(self) -> None:
    """Ends what has not ended; then all lines are there."""
    self.send(signal.SIGKILL)
    for process in self._processes:
      process.wait()
    self._reader.join()
    self._processes[0].stdout.close()

  def _unfinished(self) -> set[tuple[str, int]]:
    with contextlib.suppress(OSError):
      if self._in_bucket:
        return {
          (path.parent.name, path.stat().st_mtime_ns)
          for path in self._saved.glob('*/_CHECKPOINT_METADATA')
          if not path.with_name('commit_success.txt').exists()
        }
      with os.scandir(self._saved) as found:
        return {(e.name, e.inode()) for e in found if 'tmp' in e.name}
    return set()

  def saves(self) -> bool:
    """Whether a checkpoint is being written; once killed, whether one was."""
    return bool(self._unfinished() - self._stale)

  def evaluates(self) -> bool:
    """Whether its last line is of a step that is evaluated next."""
    last = re.match(r'step (\d+)/', self.lines[-1] if self.lines else '')
    return last is not None and int(last[1]) % _EVALUATE_EVERY == 0

  def phase(self) -> str:
    """What it is doing, a name in `_PHASES`."""
    if self.saves():
      return 'saving'
    if self.evaluates():
      return 'evaluating'
    if self.first is None:
      return 'start-up'
    return 'compiling' if self.step is None else 'training'

  def find(self, pattern: str) -> list[re.Match]:
    """Lines that match."""
    found = (re.search(pattern, line) for line in self.lines)
    return [match for match in found if match]


def _free_port() -> int:
  # JAX takes it again at once.
  with socket.socket() as probe:
    probe.bind(('localhost', 0))
    return probe.getsockname()[1]


class Chaos:
  """The disturbed run.

  Attributes:
    problems: what was not as promised.
    counts: of events, by kind and phase.
    slowest: seconds from a signal to the end, at most.
  """

  def __init__(
    self,
    root: pathlib.Path,
    workdir: pathlib.Path,
    steps: int,
    kinds: Sequence[str],
    objects: pathlib.Path | None = None,
  ):
    """Of a run that has not begun.

    Args:
      root: where logs go.
      workdir: of the run.
      steps: its length.
      kinds: of what happens to it.
      objects: files of the bucket that the workdir is in, if it is.
    """
    self._objects = objects
    self._root, self._workdir, self._steps = root, workdir, steps
    self._kinds, self._durations = kinds, dict(_PHASES)
    self._rng = random.Random(FLAGS.seed)
    # First what comes but once.
    self._phases = ['compiling'] if _COLD.value else []
    self._next_kinds = []
    self._number = 0
    self._begun = time.monotonic()
    # The file, by step, as long as nobody has noticed.
    self._damaged = {}
    self._to_check = None
    self.problems, self.counts = [], collections.Counter()
    self.slowest = 0.0

  def run(self) -> None:
    """Disturbs, and starts again, until the run has ended."""
    told = None
    compiled = self._root / 'compiled' if _COLD.value else None
    for number in range(10**6):
      self._look()
      start = Start(
        self._workdir, self._steps, _PROCESSES.value,
        self._root / 'logs' / f'disturbed_{number:03}', compiled,
        self._objects,
      )  # fmt: skip
      try:
        event = self._next_event(start)
        if event is None:
          codes = start.codes(_A_MOMENT)
      except Stuck as stuck:
        self.problem(f'start {number}: {stuck}')
        event, codes = None, [None]
      finally:
        start.close()
      self._check_beginning(start)
      self._durations |= start.durations
      if told is not None:
        first = 'nowhere' if start.first is None else f'from step {start.first}'
        print(f'{told}; then on {first}{self._left()}', flush=True)
      if event is None:
        break
      told = event
    if any(codes) or self._steps not in self._whole():
      self.problem(
        f'start {number}: ended with {codes}, not with 0 after step '
        f'{self._steps}: {start.lines[-1:]}'
      )

  def problem(self, text: str) -> None:
    self.problems.append(text)
    print(f'PROBLEM: {text}', flush=True)

  # When.

  def _remaining(self) -> float:
    """Events still to come, about."""
    if _EVENTS.value is not None:
      return _EVENTS.value - self._number
    passed = time.monotonic() - self._begun
    mean = passed / self._number if self._number else _AN_EVENT
    return (_SECONDS.value - passed) / mean

  def _left(self) -> str:
    passed = time.monotonic() - self._begun
    seconds = _SECONDS.value - passed
    if _EVENTS.value is not None:
      seconds = self._remaining() * passed / max(1, self._number)
    left = datetime.timedelta(seconds=round(max(0, seconds)))
    return f'; {left} left'

  def _next_event(self, start: Start) -> str | None:
    """Disturbs it once and says how; None where it is left to its end."""
    remaining = self._remaining()
    if remaining <= 0:
      return None
    kind = self._draw(self._next_kinds, self._kinds)
    wanted = self._draw(self._phases, list(_PHASES))
    self._reach(start, wanted, remaining, kind == 'truncate')
    if start.ended():
      return None
    self._check_beginning(start)
    phase, age = start.phase(), time.monotonic() - start.begun
    done = getattr(self, f'_{kind}')(start)
    if start.codes(0)[0] == 0:
      # It came too late.
      return None
    self._number += 1
    if kind in ('kill', 'truncate'):
      # Sure only now: what it was writing lies there unfinished.
      phase = 'saving' if start.saves() else phase
    self.counts[kind, phase] += 1
    self._check_checkpoints(f'event {self._number}, {kind} while {phase}')
    of = '' if _EVENTS.value is None else f'/{_EVENTS.value}'
    step = start.step or start.first or 0
    return (
      f'{self._number}{of}  {kind:13} {phase:10} {age:5.1f} s after its start, '
      f'at step {step}: {done}'
    )

  def _draw(self, bag: list[str], names: Sequence[str]) -> str:
    """Each comes equally often, in any order."""
    bag.extend([] if bag else self._rng.sample(names, len(names)))
    return bag.pop()

  def _reach(
    self, start: Start, phase: str, remaining: float, two_checkpoints: bool
  ) -> None:
    """Waits for a random moment of a phase, or the run's end."""
    if two_checkpoints:
      start.wait_for(lambda: len(self._steps_saved()) > 1)
    pause = self._rng.uniform(0, self._durations[phase])
    if phase == 'start-up':
      start.wait(lambda: start.first is not None, pause)
      return
    if not start.wait_for(lambda: start.first is not None):
      return
    if phase == 'compiling':
      start.wait(lambda: start.step is not None, pause)
      return
    # So that on average the last event comes shortly before the end.
    way = 2 * (self._steps - start.first) / (remaining + 1)
    target = start.first + self._rng.uniform(0, way)
    target = min(target, self._steps - _ROUND)
    start.wait_for(lambda: start.step is not None and start.step >= target)
    if phase == 'saving':
      start.wait_for(start.saves)
    elif phase == 'evaluating':
      start.wait_for(start.evaluates)
    start.wait(lambda: False, pause)

  # What.

  def _kill(self, start: Start) -> str:
    if _PROCESSES.value > 1:
      # One first: the machine of the other lives a little longer.
      start.send(signal.SIGKILL, [self._rng.randrange(_PROCESSES.value)])
      time.sleep(self._rng.uniform(0, 1))
    start.send(signal.SIGKILL)
    start.codes(_A_MOMENT)
    return 'killed'

  def _truncate(self, start: Start) -> str:
    self._kill(start)
    start.close()
    self._check_beginning(start)
    whole = self._whole()
    if len(whole) < 2:
      return 'killed (there was nothing to damage)'
    newest = self._workdir / 'checkpoints' / str(whole[-1])
    name = self._rng.choice(sorted(files.names(newest)))
    path = newest / name
    content = path.read_bytes()
    how = self._rng.choice(('truncated', 'emptied', 'removed', 'flipped'))
    if how == 'removed':
      path.unlink()
    else:
      path.write_bytes(_damage(content, how, self._rng))
    changed = how == 'removed' or path.read_bytes() != content
    if changed and name not in _UNUSED:
      self._damaged[whole[-1]] = name
    return f'killed, and {name} of step {whole[-1]} {how}'

  def _signal(self, start: Start) -> str:
    number = self._rng.choice(_SIGNALS)
    which = range(_PROCESSES.value)
    if len(which) > 1 and self._rng.random() < 0.5:
      # All stop where one of them is told to.
      which = [self._rng.choice(which)]
    start.send(number, which)
    codes, told = self._ends(start, number.name)
    if not self._noticed(start) or not any(codes):
      return told
    stopped = start.find(r'stopped after step (\d+)')
    if set(codes) != {preemption.EXIT_CODE} or len(stopped) != 1:
      self.problem(f'event {self._number + 1}, {told}: not as documented')
      return told
    step = int(stopped[0][1])
    if step < (start.step or 0) or (step and step not in self._whole()):
      self.problem(
        f'event {self._number + 1}, {told}: step {step} is said to be saved; '
        f'there are {self._whole()} and it was at {start.step}'
      )
    return f'{told}, at step {step}'

  def _double_signal(self, start: Start) -> str:
    one, two = self._rng.choice(_SIGNALS), self._rng.choice(_SIGNALS)
    start.send(one)
    start.wait(lambda: False, self._rng.uniform(0.3, 0.8))
    expected = {preemption.EXIT_CODE}
    if not start.ended():
      # Once the run is saved, the signal's own way to end a program is back.
      expected |= {128 + two, -two}
    start.send(two)
    codes, told = self._ends(start, f'{one.name}, {two.name}')
    if self._noticed(start) and any(codes) and not set(codes) <= expected:
      self.problem(f'event {self._number + 1}, {told}: not in {expected}')
    return told

  def _ends(self, start: Start, what: str) -> tuple[list[int | None], str]:
    """Exit codes after a signal; and in words."""
    sent = time.monotonic()
    codes = start.codes(4 * _AN_END)
    seconds = time.monotonic() - sent
    # All that it says.
    start.close()
    told = f'{what}: ended with {codes} after {seconds:.1f} s'
    if self._noticed(start):
      self.slowest = max(self.slowest, seconds)
      if None in codes or seconds > _AN_END:
        self.problem(f'event {self._number + 1}, {told}')
    return codes, told

  def _noticed(self, start: Start) -> bool:
    """Before it listens, a signal ends a program as it does others."""
    return bool(start.find('a second signal stops at once|stopped after step'))

  def _fill(self, start: Start) -> str:
    disk = self._workdir.parent
    left = self._rng.randrange(2**10 if start.saves() else 2**20)
    others = disk / 'others'
    with others.open('wb', buffering=0) as file:
      with contextlib.suppress(OSError):
        while True:
          file.write(bytes(2**20))
      file.truncate(max(0, file.tell() - left))
    start.wait_for(start.ended)
    code, *_ = start.codes(0)
    others.unlink()
    start.close()
    told = f'{left:,} bytes left: ended with {code}'
    errors = [line for line in start.lines if line.startswith('error:')]
    traces = len(start.find('Traceback'))
    if code and (code != 2 or len(errors) != 1 or traces):
      self.problem(
        f'event {self._number + 1}, fill: {told}, {len(errors)} errors and '
        f'{traces} tracebacks; last line {start.lines[-1:]}'
      )
    return told

  # What must hold.

  def _steps_saved(self) -> list[int]:
    return checkpoints.Checkpoints(self._workdir).steps()

  def _whole(self) -> list[int]:
    """Steps of the checkpoints that are as they were written."""
    directory = self._workdir / 'checkpoints'
    return [
      step
      for step in self._steps_saved()
      if step not in self._damaged
      and checkpoints.find_damage(directory / str(step)) is None
    ]

  def _check_checkpoints(self, what: str) -> None:
    """Those that are there are whole, but what was damaged on purpose."""
    whole = self._whole()
    for step in self._steps_saved():
      # Older ones than are kept may have been about to be removed.
      if step not in self._damaged and step > max(whole, default=0):
        self.problem(f'{what}: the checkpoint of step {step} is not whole')

  def _look(self) -> None:
    """What a start has to go on from, and what it has to complain of."""
    for step in self._damaged.keys() - set(self._steps_saved()):
      del self._damaged[step]
    self._to_check = max(self._whole(), default=0)

  def _check_beginning(self, start: Start) -> None:
    """Once, when it has told."""
    if start.first is None or self._to_check is None:
      return
    newest, self._to_check = self._to_check, None
    what = f'the start after event {self._number}'
    restored = [int(m[1]) for m in start.find(r'^Restored step (\d+) of')]
    if start.first != newest or restored != ([newest] if newest else []):
      self.problem(
        f'{what} trains from {start.first} and restored {restored}, not '
        f'{newest}'
      )
    told = {
      int(match[1]): match[2]
      for match in start.find(
        r'checkpoints/(\d+) is damaged \((.*)\): '
        f'step {newest} is used instead; moved to'
      )
    }
    for step, file in self._damaged.items():
      # Damage of the list itself may look like that of a file in it.
      named = told.get(step, '')
      if not named or not (named.startswith(file) or file == 'SHA256SUMS'):
        self.problem(f'{what}: {file} of step {step} is damaged; told: {told}')
    if told.keys() - self._damaged.keys():
      self.problem(f'{what} finds damage that nobody made: {told}')
    self._damaged.clear()


def differences(
  expected: pathlib.Path, found: pathlib.Path, steps: int
) -> list[str]:
  """What is not the same in two workdirs of the same finished run."""
  out = []
  for name in ('config.json', 'metrics.jsonl'):
    if (expected / name).read_bytes() != (found / name).read_bytes():
      out.append(f'{name} differs')
  for workdir in (expected, found):
    text = (workdir / 'metrics.jsonl').read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    for key, every in (('loss', _LOG_EVERY), ('eval/exact', _EVALUATE_EVERY)):
      told = [line['step'] for line in lines if key in line]
      if told != list(range(every, steps + 1, every)):
        out.append(f'{workdir}/metrics.jsonl: {key} is of steps {told}')
  ours, theirs = map(checkpoints.Checkpoints, (expected, found))
  config, _ = workdir_config.read(expected)
  position, other = ours.position(steps), theirs.position(steps)
  if position != other:
    out.append(f'step {steps}: position differs: {position} and {other}')
  best = max(position.scores, key=lambda pair: (pair[1], -pair[0]))[0]
  setup = dataclasses.replace(
    build.train_setup(config, build.shapes(config)),
    num_puzzle_identifiers=len(position.identifier_names),
  )
  mesh = build.mesh(config, jax.devices()[:1])
  like = train_step.abstract_state(setup, mesh)
  for step in sorted({best, *ours.steps()}):
    if step in ours.steps() and step in theirs.steps():
      states = [saved.restore(step, like) for saved in (ours, theirs)]
      one, two = map(jax.tree_util.tree_leaves_with_path, states)
      differing = [
        jax.tree_util.keystr(path)
        for (path, a), (_, b) in zip(one, two, strict=True)
        if _bits(a) != _bits(b)
      ]
      if differing:
        out.append(
          f'step {step}: {len(differing)} of {len(one)} arrays differ: '
          f'{", ".join(differing)}'
        )
    elif step in (best, steps):
      out.append(f'step {step} is not there twice')
  return out


def _damage(content: bytes, how: str, rng: random.Random) -> bytes:
  if not content or how == 'emptied':
    return b''
  if how == 'truncated':
    return content[: rng.randrange(len(content))]
  bit = rng.randrange(8 * len(content))
  changed = bytearray(content)
  changed[bit // 8] ^= 1 << bit % 8
  return bytes(changed)


def _bits(x: jax.Array) -> tuple[str, bytes]:
  return str(x.dtype), np.asarray(x).tobytes()


def run(root: pathlib.Path) -> list[str]:
  """Makes both runs below `root` as the flags say; what was not well."""
  kinds = list(_KINDS.value)
  events = _EVENTS.value
  if events is None:
    events = round(_SECONDS.value / _AN_EVENT)
  steps = _ROUND * (2 + events * _STEPS_AN_EVENT // _ROUND)
  (root / 'logs').mkdir()
  with contextlib.ExitStack() as stack:
    disk, objects = root / 'disk', None
    if _BUCKET.value:
      objects = stack.enter_context(buckets.serving(disk)).objects
      # A bucket is never full.
      kinds = [kind for kind in kinds if kind != 'fill']
    elif 'fill' in kinds:
      # Damaged checkpoints stay.
      size = f'size={32 + events}m'
      if not stack.enter_context(disks.tmpfs(disk, size)):
        print('fill is left out: this user cannot mount a tmpfs', flush=True)
        kinds.remove('fill')
    else:
      disk.mkdir()
    if not kinds:
      raise ConfigError('nothing is left to do')
    workdir = disk / 'run'
    if objects:
      workdir = files.place(f'gs://{buckets.BUCKET}/run')
    chaos = Chaos(root, workdir, steps, kinds, objects)
    peace = Start(
      root / 'undisturbed', steps, _PROCESSES.value, root / 'logs/undisturbed'
    )
    stack.callback(peace.close)
    chaos.run()
    # To another place, which it does not mind.
    shutil.copytree((objects or disk) / 'run', root / 'disturbed')
    codes = peace.codes(_A_MOMENT + steps)
  for kind in kinds:
    counts = {phase: chaos.counts[kind, phase] for phase in _PHASES}
    print(
      f'{kind:13} {sum(counts.values()):3}:',
      ', '.join(f'{phase} {count}' for phase, count in counts.items()),
    )
  print(f'Slowest end after a signal: {chaos.slowest:.1f} s')
  if any(codes):
    chaos.problem(f'the undisturbed run: {codes}, {peace.lines[-1:]}')
  # What kept the other one from its end was told.
  elif (root / 'disturbed' / 'checkpoints' / str(steps)).exists():
    for text in differences(root / 'undisturbed', root / 'disturbed', steps):
      chaos.problem(text)
  return chaos.problems


def main(_) -> int:
  # Also where a shell's background ignores them, which what is started here
  # would learn; and nothing stays behind.
  signal.signal(signal.SIGINT, signal.default_int_handler)
  signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
  jax.config.update('jax_platforms', 'cpu')
  logging.set_verbosity(logging.WARNING)
  unknown = set(_KINDS.value) - set(KINDS)
  if unknown or not _KINDS.value:
    raise ConfigError(
      f'--kinds={",".join(_KINDS.value)}: of {", ".join(KINDS)}'
    )
  if FLAGS.workdir is None:
    root = pathlib.Path(tempfile.mkdtemp(prefix='chaos_'))
  else:
    root = pathlib.Path(FLAGS.workdir).absolute()
    if root.exists() and any(root.iterdir()):
      raise ConfigError(f'--workdir={root} is not empty; name a new one')
    root.mkdir(parents=True, exist_ok=True)
  problems = run(root)
  if problems:
    print(f'Not as promised: {len(problems)} problems; all is in {root}')
    return 1
  print('The same to the last bit, and every step once')
  if FLAGS.workdir is None:
    shutil.rmtree(root)
  return 0


if __name__ == '__main__':
  command.run(main, FLAGS)
