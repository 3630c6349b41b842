"""Reads a compiled program's text: exchanges, arithmetic and memory traffic.

XLA's own figures leave gaps: they do not tell collectives apart, and there are
none for a GPU that is not there. All figures here are for one device.
"""

import collections
import functools
import math
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

# The kinds of exchanges, each with the least number of bytes that one of n
# devices sends for a byte that it puts in, as in a ring.
KINDS = {
  'all-reduce': lambda n: 2 * (n - 1) / n,
  'reduce-scatter': lambda n: (n - 1) / n,
  'all-gather': lambda n: n - 1,
  'all-to-all': lambda n: (n - 1) / n,
  'collective-permute': lambda n: 1,
}
# Operations that neither read nor write memory.
_FREE = {
  'parameter', 'constant', 'tuple', 'get-tuple-element', 'bitcast', 'while',
  'call', 'conditional', 'after-all', 'partition-id', 'replica-id',
}  # fmt: skip
# Operations that read, or change, only parts of their first operand.
_LOOKUPS = ('gather', 'dynamic-slice', 'slice')
_UPDATES = ('dynamic-update-slice', 'scatter')
# What a custom call may be that computes nothing.
_WORKLESS = re.compile(
  r'Assume|Async|Sharding|AllocateBuffer|Pin|Unpin|annotate|Bitcast|Barrier'
)
# The attributes that name the computations that an operation runs.
_CALLS = {
  'while': ('condition', 'body'),
  'fusion': ('calls',),
  'async-start': ('calls',),
  'call': ('to_apply',),
  'conditional': (
    'branch_computations', 'true_computation', 'false_computation',
  ),
}  # fmt: skip
_SHAPE = re.compile(r'\b([a-z]+[0-9][a-z0-9]*|pred|token)\[([0-9,]*)\]')
_COMPUTATION = re.compile(r'(ENTRY )?%?([^\s(]+) \(.*\) -> .* \{$')
_INSTRUCTION = re.compile(r'(?:ROOT )?%?(\S+) = ')


class UnknownForm(ValueError):
  """A text, or an operation in it, that this reader does not understand."""


class Shape(NamedTuple):
  """The shape of an array: XLA's name of its type, and its dimensions."""

  dtype: str
  dimensions: tuple[int, ...]

  @property
  def num_bytes(self) -> int:
    """Number of bytes, without any padding."""
    if self.dtype == 'token':
      return 0
    bits = re.search('[0-9]+', self.dtype)
    # Only the name of booleans has no number.
    width = int(bits[0]) if bits else 8
    return math.ceil(math.prod(self.dimensions) * width / 8)


class Instruction(NamedTuple):
  """A line of the text: a result's name, and what makes it.

  The result has several `shapes` where it is a tuple; `operands` are the
  instructions whose results it takes, and `rest` is the text behind them.
  """

  computation: str
  name: str
  opcode: str
  shapes: tuple[Shape, ...]
  operands: tuple['Instruction', ...]
  rest: str

  @property
  def target(self) -> str:
    """The function that a custom call names; empty for all else."""
    found = re.search(r'custom_call_target="([^"]*)"', self.rest)
    return found[1] if found else ''

  def called(self, attribute: str) -> list[str]:
    """Returns the computations that an attribute names."""
    found = re.search(rf'\b{attribute}=(\{{[^}}]*\}}|%?[^\s,]+)', self.rest)
    return re.findall(r'%?([^\s,{}%]+)', found[1]) if found else []


class Collective(NamedTuple):
  """An exchange of one of KINDS, which a run of the program does `times` times.

  A device puts in so many bytes each time; so many devices take part in one.
  """

  kind: str
  times: int
  operand_bytes: int
  devices: int

  @property
  def sent_bytes(self) -> float:
    """Least number of bytes that a device sends each time, as in a ring."""
    return self.operand_bytes * KINDS[self.kind](self.devices)


class Program:
  """The text of a compiled program (`jax.stages.Compiled.as_text()`)."""

  def __init__(self, text: str, num_devices: int):
    """Reads the text, of any backend, scheduled or not.

    An exchange without named groups is between all of the program's devices.

    Raises:
      UnknownForm: there is no entry computation that this reader understands.
    """
    self._num_devices = num_devices
    self._computations: dict[str, dict[str, Instruction]] = {}
    self._entry = name = None
    for line in text.splitlines():
      if line.startswith(' ') and name is not None:
        known = self._computations[name]
        if instruction := _instruction(line.strip(), name, known):
          known[instruction.name] = instruction
      elif header := _COMPUTATION.match(line):
        name = header[2]
        self._computations.setdefault(name, {})
        self._entry = name if header[1] else self._entry
    if not self._computations.get(self._entry):
      raise UnknownForm('no entry computation of a known form')

  def _inside(self, computation: str) -> Iterable[Instruction]:
    return self._computations.get(computation, {}).values()

  def _runs(self, loops: bool = True) -> Iterator[tuple[Instruction, int]]:
    """Yields each instruction, those in fusions too, with how often it runs."""
    times = collections.Counter()

    def count(name: str, runs: int) -> None:
      times[name] += runs
      for instruction in self._inside(name):
        again = runs
        if instruction.opcode == 'while' and loops:
          again *= self._trip_count(instruction) or 1
        for attribute in _CALLS.get(instruction.opcode, ()):
          for called in instruction.called(attribute):
            count(called, again)

    count(self._entry, 1)
    for name, runs in times.items():
      for instruction in self._inside(name):
        yield instruction, runs

  def _trip_count(self, loop: Instruction) -> int | None:
    """How often a loop runs: XLA notes it, or it is `counter < constant`."""
    known = re.search(r'known_trip_count":?=?\{"?n"?:"?([0-9]+)', loop.rest)
    if known:
      return int(known[1])
    constants, directions = [], []
    for name in loop.called('condition'):
      for instruction in self._inside(name):
        if instruction.opcode == 'constant':
          constants += re.findall(r'^\(([0-9]+)\)', instruction.rest)
        directions += re.findall(r'\bdirection=(\w+)', instruction.rest)
    if len(constants) == 1 and directions == ['LT']:
      return int(constants[0])
    return None

  def collectives(self) -> list[Collective]:
    """Lists all exchanges; an asynchronous one counts once."""
    found, chains = [], set()
    for instruction, times in self._runs():
      kind = instruction.opcode.removesuffix('-start')
      if kind not in KINDS:
        continue
      # TPUs do some of them bit by bit, in a chain of fusions.
      if chain := re.search(r'chain_id="([^"]+)"', instruction.rest):
        key = kind, chain[1], instruction.shapes
        if key in chains:
          continue
        chains.add(key)
      # An all-reduce whose result each device keeps a part of.
      if instruction.computation.startswith('all-reduce-scatter'):
        kind = 'reduce-scatter'
      size = sum(_bytes(operand.shapes) for operand in instruction.operands)
      devices = self._group_size(instruction.rest)
      found.append(Collective(kind, times, size, devices))
    return found

  def _group_size(self, rest: str) -> int:
    if found := re.search(r'replica_groups=mesh\[(.*?)\] \{(.*?)\}', rest):
      sizes = dict(re.findall(r"'(\w+)'=([0-9]+)", found[1]))
      # Part of an axis is written 'axis':(before)size.
      axes = re.findall(r"'(\w+)'(?::\([0-9]+\)([0-9]+))?", found[2])
      return math.prod(int(part or sizes[axis]) for axis, part in axes)
    if found := re.search(r'replica_groups=\{\{([0-9,]+)\}', rest):
      return found[1].count(',') + 1
    if found := re.search(r'replica_groups=\[([0-9]+),([0-9]+)\]<=', rest):
      return int(found[2])
    return self._num_devices

  def flops(self, loops: bool = True) -> float:
    """Counts the operations of matrix products and of kernels that tell.

    A multiply-add counts as two. `uncounted` names what is missing here. Unless
    `loops`, the body of a loop counts once.
    """
    runs = self._runs(loops)
    return float(sum(times * (_flops_of(one) or 0) for one, times in runs))

  def uncounted(self) -> tuple[str, ...]:
    """Names the operations whose work this reader does not know."""
    found = {}
    for instruction, _ in self._runs():
      if instruction.opcode == 'while':
        if self._trip_count(instruction) is None:
          found[f'loop {instruction.name}, taken to run once'] = None
      elif _flops_of(instruction) is None:
        found[f'{instruction.opcode} {instruction.target}'.strip()] = None
    return tuple(found)

  def bytes_accessed(self, loops: bool = True) -> float:
    """Counts the bytes that operations outside of fusions read and write.

    Where an operation only looks up parts of an input, these parts count.
    Unless `loops`, the body of a loop counts once.
    """
    fused = {
      called
      for instruction, _ in self._runs()
      if instruction.opcode == 'fusion'
      for called in instruction.called('calls')
    }
    return float(
      sum(
        times * self._bytes_of(instruction)
        for instruction, times in self._runs(loops)
        if instruction.computation not in fused
        and instruction.opcode not in _FREE
        and not instruction.opcode.endswith('-done')
      )
    )

  def _bytes_of(self, instruction: Instruction) -> int:
    results = _bytes(instruction.shapes)
    operands = [_bytes(operand.shapes) for operand in instruction.operands]
    if instruction.opcode in _LOOKUPS:
      return 2 * results + sum(operands[1:])
    if instruction.opcode in _UPDATES:
      return 2 * sum(operands[1:])
    if instruction.opcode == 'fusion':
      for name in instruction.called('calls'):
        operands = _parts_read(self._inside(name), operands)
        results = _parts_written(self._inside(name), results)
    return results + sum(operands)


def _bytes(shapes: Iterable[Shape]) -> int:
  return sum(shape.num_bytes for shape in shapes)


def _parts_read(
  inside: Iterable[Instruction], operands: list[int]
) -> list[int]:
  """Bytes that a fusion reads of each input, given the bytes of all of it."""
  read = list(operands)
  for parameter in inside:
    if parameter.opcode != 'parameter':
      continue
    number = int(parameter.rest.strip('()').split(')')[0])
    # As it is or in another shape.
    whole, users = [parameter], []
    for user in inside:
      if any(operand in whole for operand in user.operands):
        (whole if user.opcode == 'bitcast' else users).append(user)
    if number < len(read) and all(
      user.opcode in _LOOKUPS + _UPDATES and user.operands[0] in whole
      for user in users
    ):
      looked_up = [user for user in users if user.opcode in _LOOKUPS]
      parts = sum(_bytes(user.shapes) for user in looked_up)
      read[number] = min(read[number], parts)
  return read


def _parts_written(inside: Iterable[Instruction], whole: int) -> int:
  """Bytes that a fusion writes; into an input's place, those that change."""
  written = sum(
    # Behind the array come a scatter's indices, and then what is written.
    _bytes(one.operands[2 if one.opcode == 'scatter' else 1].shapes)
    for one in inside
    if one.opcode in _UPDATES
  )
  return min(whole, written) if written else whole


def _flops_of(instruction: Instruction) -> int | None:
  """Operations of one instruction; None where it has an unknown form."""
  # A kernel's own estimate.
  estimate = r'cost_estimate":\{[^}]*"flops":"?([0-9]+)'
  if told := re.search(estimate, instruction.rest):
    return int(told[1])
  if instruction.opcode == 'custom-call':
    target = instruction.target
    counts = [count for part, count in _LIBRARIES.items() if part in target]
    if not counts:
      return 0 if _WORKLESS.search(target) else None
    (count,) = counts
  elif not (count := _PRODUCTS.get(instruction.opcode)):
    return 0
  try:
    return count(instruction, *(one.shapes[0] for one in instruction.operands))
  except (AttributeError, TypeError, ValueError, LookupError):
    return None


def _dot_flops(
  instruction: Instruction, left: Shape, right: Shape, *_: Shape
) -> int:
  """Counts a matrix product, by XLA or by cuBLAS."""
  form = r'lhs_contracting_dim(?:s=\{|ensions":\[)([^]}]*)[]}]'
  contracted = re.search(form, instruction.rest)
  axes = map(int, re.findall('[0-9]+', contracted[1]))
  depth = math.prod(left.dimensions[axis] for axis in axes)
  return 2 * math.prod(instruction.shapes[0].dimensions) * depth


def _convolution_flops(
  instruction: Instruction, left: Shape, right: Shape, *_: Shape
) -> int:
  """Counts a TPU's matrix product; axes of a batch are windows over a value."""
  labels = re.search(r'dim_labels=(\w+)_(\w+)->(\w+)', instruction.rest)
  of_left, of_right, of_out = (
    dict(zip(names, shape.dimensions, strict=True))
    for names, shape in zip(
      labels.groups(), (left, right, instruction.shapes[0]), strict=True
    )
  )
  products = of_out['b'] * of_out['f'] * of_right['i']
  text = re.search(r'window=\{([^}]*)\}', instruction.rest)
  window = dict(w.split('=') for w in text[1].split()) if text else {}
  for number, axis in enumerate(sorted(set(of_out) - {'b', 'f'})):
    # The padding of both sides is written 0_0.
    settings = (
      int(window[key].split('x')[number].split('_')[0])
      if key in window
      else default
      for key, default in _WINDOW.items()
    )
    products *= _valid(of_left[axis], of_right[axis], of_out[axis], *settings)
  return 2 * products


def _attention_flops(instruction: Instruction, query: Shape, *_: Shape) -> int:
  """Counts cuDNN's attention: two products forward, five backward.

  The gradient computes the scores again.
  """
  form = r'intermediate_tensor_shape": ?\{.*?"dimensions": ?\[([0-9", ]*)\]'
  scores = re.search(form, instruction.rest)
  size = math.prod(int(n) for n in re.findall('[0-9]+', scores[1]))
  products = 5 if 'ackward' in instruction.rest else 2
  return products * 2 * size * query.dimensions[-1]


_PRODUCTS = {'dot': _dot_flops, 'convolution': _convolution_flops}
# Custom calls of libraries, by a part of their target.
_LIBRARIES = {'__cublas$': _dot_flops, '__cudnn$fmha': _attention_flops}
# A convolution's settings along an axis, with the values that go unwritten.
_WINDOW = {'stride': 1, 'pad': 0, 'lhs_dilate': 1, 'rhs_dilate': 1}


@functools.cache
def _valid(
  inputs: int, window: int, outputs: int, stride: int, pad: int, holes: int,
  window_holes: int,
) -> int:  # fmt: skip
  """Counts products along a convolution's axis, without padding and holes."""
  at = np.arange(outputs)[:, None] * stride
  at = at + np.arange(window) * window_holes - pad
  inside = (at >= 0) & (at <= (inputs - 1) * holes) & (at % holes == 0)
  return int(inside.sum())


def _instruction(
  line: str, computation: str, known: dict[str, Instruction]
) -> Instruction | None:
  start = _INSTRUCTION.match(line)
  if not start:
    return None
  # The result's type may be a tuple.
  text = line[start.end() :]
  end = _closing(text[1:]) + 2 if text.startswith('(') else text.find(' ')
  opcode, bracket, rest = text[end:].partition('(')
  if not bracket:
    return None
  shapes = tuple(
    Shape(dtype, tuple(int(n) for n in sizes.split(',') if n))
    for dtype, sizes in _SHAPE.findall(text[:end])
  )
  end = _closing(rest)
  inside, after = rest[:end], rest[end + 1 :]
  if opcode.strip() in ('constant', 'parameter'):
    inside, after = '', f'({inside}){after}'
  names = re.findall(r'%([^\s,()]+)', inside)
  operands = tuple(known[name] for name in names if name in known)
  return Instruction(
    computation, start[1], opcode.strip(), shapes, operands, after
  )


def _closing(text: str) -> int:
  """Finds where the bracket closes that was opened before `text`."""
  depth = 1
  for place in re.finditer(r'[()]', text):
    depth += 1 if place[0] == '(' else -1
    if not depth:
      return place.start()
  return len(text)
