"""Predictions from trained weights: segments without gradient.

As in training, a batch is a carry of rows at work, and a row that is answered
makes room for the next one. So the cost of `act` follows the mean number of
segments, not the largest. Rows end out of order and are handed on in order.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from hrm_jax.parallel import sharding
from hrm_jax.settings import ActSettings, EvaluationSettings, choices
from hrm_jax.training import act, puzzle_table
from hrm_jax.training.losses import IGNORE_LABEL

HALTING_MODES = choices(EvaluationSettings, 'halting')

# Number of a slot's row among all that are predicted; -1 in an empty slot.
_ROW = 'row'

# The last rows are worked on in batches of 1/2, 1/4 ... of the size. Each of
# these compiles when it is first needed, so smaller ones are left out.
_SHRUNK = (2, 4, 8, 16)


class Predictions(NamedTuple):
  """What the model answers, a row each.

  Attributes:
    tokens: uint8 [B, S], most likely token of each cell.
    q_halt: float32 [B], logit of "this answer is right".
    steps: int32 [B], segments that the answer took.
    exact: bool [B], every counted cell of the label is right; False where no
      cell counts, the answer being unknown.
    accuracy: float32 [B], fraction of the counted cells that are right.
  """

  tokens: chex.Array
  q_halt: chex.Array
  steps: chex.Array
  exact: chex.Array
  accuracy: chex.Array


def empty_carry(model: nn.Module, variables: Any, size: int) -> act.Carry:
  """A carry of `size` empty slots."""
  z = model.apply(variables, size, method='initial_state')
  carry = act.initial_carry(z, size, model.seq_len)
  return carry.replace(data=carry.data | {_ROW: jnp.full(size, -1)})


def advance(
  model: nn.Module,
  settings: ActSettings,
  mode: str,
  variables: Any,
  table: chex.Array,
  carry: act.Carry,
  fresh: act.Batch,
) -> tuple[act.Carry, Predictions]:
  """Admits rows where the carry's have halted, and works on all of them.

  Args:
    model: module with the interface of `hrm_jax.models`.
    settings: largest number of segments, and when a row would halt.
    mode: 'fixed' runs all segments in one call; 'act' runs one, after which a
      row may halt.
    variables: parameters and constants of the model.
    table: puzzle embeddings, float32 [R, E].
    carry: carry of the last call, or `empty_carry`.
    fresh: inputs, labels, puzzle identifiers and numbers of rows, each in the
      slot that it shall take.

  Returns:
    The new carry, and what each row would answer now; it is the row's answer
    where the row has halted.
  """
  fresh_z = model.apply(variables, len(carry.halted), method='initial_state')
  carry = act.admit(carry, fresh_z, fresh)
  data = carry.data
  # Again in each call: cheap beside a segment, and the carry stays small.
  x = embed(model, variables, table, data)

  def segment(z, _):
    return model.apply(variables, z, x, method='segment_without_gradient'), None

  count = settings.halt_max_steps if mode == 'fixed' else 1
  z, _ = jax.lax.scan(segment, carry.z, length=count)
  logits, q = model.apply(variables, z, method='heads')
  steps = carry.steps + count
  halted = (steps >= settings.halt_max_steps) | (data[_ROW] < 0)
  if mode == 'act':
    halted |= act.wants_halt(settings, q)

  found = answers(logits, q, steps, data['labels'])
  return carry.replace(z=z, steps=steps, halted=halted), found


def embed(
  model: nn.Module, variables: Any, table: chex.Array, data: act.Batch
) -> chex.Array:
  """x̃ [B, T, D] of these rows, their puzzle embeddings looked up in `table`."""
  rows = sharding.spec('batch')
  lookup = sharding.over_rows(
    puzzle_table.lookup, (sharding.spec('puzzles'), rows), rows
  )
  puzzles = lookup(table, data['puzzle_identifiers'])
  return model.apply(variables, data['inputs'], puzzles, method='embed')


def answers(
  logits_BSV: chex.Array,
  q_B2: chex.Array,
  steps_B: chex.Array,
  labels_BS: chex.Array,
) -> Predictions:
  """Reads the answers of rows after `steps_B` segments, and compares labels."""
  tokens = jnp.argmax(logits_BSV, axis=-1)
  counted = labels_BS != IGNORE_LABEL
  right = counted & (tokens == labels_BS)
  cells, right = jnp.sum(counted, axis=-1), jnp.sum(right, axis=-1)
  return Predictions(
    tokens=tokens.astype(jnp.uint8),
    q_halt=q_B2[:, 0],
    steps=steps_B,
    exact=(right == cells) & (cells > 0),
    accuracy=right / jnp.maximum(cells, 1),
  )


def shrink(carry: act.Carry, size: int) -> act.Carry:
  """A carry of fewer slots; those at work, at most `size`, come first."""
  kept = jnp.argsort(carry.halted, stable=True)[:size]
  return jax.tree.map(lambda leaf: leaf[kept], carry)


# read(size, rows) yields those rows of every batch of that size, in order; the
# last batch is filled up by any rows.
Read = Callable[[int, slice], Iterator[act.Batch]]
PredictFunction = Callable[
  [Any, chex.Array, Read, int, int], Iterator[Predictions]
]


def sharded_predict(
  model: nn.Module, settings: ActSettings, mode: str, mesh: Mesh
) -> PredictFunction:
  """The function that predicts rows, in slots that are split over the mesh.

  `predict(variables, table, read, count, batch_size)` predicts the first
  `count` rows (at least one) that `read` yields, at most `batch_size` at a
  time; the mesh must divide that. It yields the `Predictions`, NumPy arrays, in
  the order of the rows, some rows at a time. Each process reads rows of its own
  and gets the predictions of all.

  Args:
    model: any module with the interface of `hrm_jax.models`.
    settings: how many segments, and when a row would halt.
    mode: a value of `EvaluationSettings.halting`.
    mesh: devices that share the rows.

  Raises:
    ConfigError: there is no such mode.
  """
  EvaluationSettings(halting=mode)
  whole, split = sharding.replicated(mesh), sharding.by_batch(mesh)

  def step(variables, table, carry, fresh):
    with sharding.using(mesh):
      variables = sharding.constrain_whole(variables)
      carry, found = advance(
        model, settings, mode, variables, table, carry, fresh
      )
    # The row that each slot has answered.
    answered = jnp.where(carry.halted, carry.data[_ROW], -1)
    return carry, (carry.halted, answered), found

  run = jax.jit(
    step,
    donate_argnums=2,
    # Parameters as they are: they may be split.
    in_shardings=(None, sharding.place(mesh, 'puzzles'), split, split),
    out_shardings=(split, whole, whole),
  )
  start = jax.jit(
    lambda variables, size: empty_carry(model, variables, size),
    static_argnums=1,
    out_shardings=split,
  )
  fewer = jax.jit(
    shrink, static_argnums=1, in_shardings=split, out_shardings=split
  )

  def predict(variables, table, read, count, batch_size):
    sizes = [sharding.round_up(mesh, 'batch', min(batch_size, count))]
    sizes += [
      sharding.round_up(mesh, 'batch', -(-sizes[0] // shrunk))
      for shrunk in _SHRUNK
    ]
    size = sizes[0]
    rows = _Rows(mesh, read, count, size)
    ordered = _InOrder()
    carry, halted = start(variables, size), np.ones(size, bool)
    left, last = count, None
    while left:
      smallest = min(s for s in sizes if s >= min(left, size))
      if smallest < size:
        size, carry = smallest, fewer(carry, smallest)
        halted = np.sort(halted)[:size]
      fresh = sharding.global_batch(
        mesh, rows.fill(halted[sharding.local_rows(mesh, size)])
      )
      carry, status, found = run(variables, table, carry, fresh)
      # While the devices work, the host does with the answers of the last call.
      if last:
        yield from ordered.add(*last)
      halted, answered = jax.device_get(status)
      left -= np.count_nonzero(answered >= 0)
      last = answered, found
    if last:
      yield from ordered.add(*last)

  return predict


class _Rows:
  """The rows that this process feeds, in order, as slots are free.

  They are dealt out to the processes in turns, so that all have about as many.
  """

  def __init__(self, mesh: Mesh, read: Read, count: int, size: int):
    own = sharding.local_rows(mesh, size)
    length = own.stop - own.start
    mine = slice(own.start // length, None, size // length)
    self._batches = self._numbered(read(size, mine), count, size, mine)
    self._rows = next(self._batches)

  @staticmethod
  def _numbered(batches, count, size, mine):
    for number, batch in enumerate(batches):
      row = number * size + np.arange(size, dtype=np.int32)[mine]
      yield {
        name: rows[row < count] for name, rows in {**batch, _ROW: row}.items()
      }

  def fill(self, free: np.ndarray) -> act.Batch:
    """The next rows in the free slots, bool [b]; row -1 in all others."""
    slots = np.flatnonzero(free)
    while len(self._rows[_ROW]) < len(slots):
      more = next(self._batches, None)
      if more is None:
        break
      self._rows = {
        name: np.concatenate([rows, more[name]])
        for name, rows in self._rows.items()
      }
    slots = slots[: len(self._rows[_ROW])]
    out = {}
    for name, rows in self._rows.items():
      empty = -1 if name == _ROW else 0
      out[name] = np.full((len(free), *rows.shape[1:]), empty, rows.dtype)
      out[name][slots] = rows[: len(slots)]
      self._rows[name] = rows[len(slots) :]
    return out


class _InOrder:
  """Hands answers on in the order of the rows."""

  def __init__(self):
    self._waiting, self._next = {}, 0

  def add(
    self, answered: np.ndarray, found: Predictions
  ) -> Iterator[Predictions]:
    """Takes the slots with answered[b] >= 0; yields what is next, if it is."""
    found = jax.device_get(found)
    for slot in np.flatnonzero(answered >= 0):
      self._waiting[int(answered[slot])] = [array[slot] for array in found]
    ready = []
    while self._next in self._waiting:
      ready.append(self._waiting.pop(self._next))
      self._next += 1
    if ready:
      yield Predictions(
        *(np.stack(column) for column in zip(*ready, strict=True))
      )
