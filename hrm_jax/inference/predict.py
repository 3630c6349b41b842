"""Predictions from trained weights: segments without gradient.

As in training, a batch is a carry of rows at work, and a row that is answered
makes room for the next one. So the cost of `act` follows the mean number of
segments, not the largest. Rows end out of order and are handed on in order.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from data_pipelines.scoring import Predictions
from hrm_jax.models import ReasoningModel
from hrm_jax.parallel import sharding
from hrm_jax.settings import (
  ActSettings,
  EvaluationSettings,
  Halting,
  Width,
  choices,
)
from hrm_jax.training import act, puzzle_table
from hrm_jax.training.losses import IGNORE_LABEL

HALTING_MODES = choices(EvaluationSettings, 'halting')

_ONCE = Width()

# Number of a slot's row among all that are predicted; -1 in an empty slot.
_ROW = 'row'

# The last rows are worked on in batches of 1/2, 1/4 ... of the size. Each of
# these compiles when it is first needed, so smaller ones are left out.
_SHRUNK = (1, 2, 4, 8, 16)


def embed(
  model: ReasoningModel, variables: Any, table: chex.Array, data: act.Batch
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


def noisy(z: Any, width: Width, row_B: chex.Array, number_B: chex.Array) -> Any:
  """The state before segment `number` of each row, with the noise of `width`.

  The noise is a function of the seed, the row and the segment, in whatever
  batch or slot the row is worked on.
  """

  def of_row(z, row, number):
    key = jax.random.fold_in(jax.random.key(width.seed), row)
    key = jax.random.fold_in(key, number)
    size = jnp.where((number > 0) & (width.noise_at == 'initial'), 0, 1)
    leaves, structure = jax.tree.flatten(z)
    keys = jax.random.split(key, len(leaves))
    scale = size * width.noise
    return jax.tree.unflatten(
      structure,
      [
        x + (scale * jax.random.normal(k, x.shape)).astype(x.dtype)
        for k, x in zip(keys, leaves, strict=True)
      ],
    )

  return jax.vmap(of_row)(z, row_B, number_B)


def shrink(carry: act.Carry, size: int) -> act.Carry:
  """A carry of fewer slots; those at work, at most `size`, come first."""
  kept = jnp.argsort(carry.halted, stable=True)[:size]
  return jax.tree.map(lambda leaf: leaf[kept], carry)


# read(size, rows) yields those rows of every batch of that size, in order; the
# last batch is filled up by any rows.
Read = Callable[[int, slice], Iterator[act.Batch]]
PredictFunction = Callable[..., Iterator[Predictions]]


def sharded_predict(
  model: ReasoningModel,
  settings: ActSettings,
  mode: Halting,
  mesh: Mesh,
  width: Width = _ONCE,
) -> PredictFunction:
  """The function that predicts rows, in slots that are split over the mesh.

  `predict(variables, table, read, count, batch_size)` predicts the first
  `count` rows (at least one) that `read` yields, at most `batch_size` at a
  time; the mesh must divide that. It yields the `Predictions`, NumPy arrays, in
  the order of the rows, some rows at a time. Each process reads rows of its own
  and gets the predictions of all. `mode` is a value of
  `EvaluationSettings.halting`; another is a ConfigError. Of `width` the noise
  counts; rows are repeated by whoever reads them.
  """
  EvaluationSettings(halting=mode)
  whole, split = sharding.replicated(mesh), sharding.by_batch(mesh)

  def step(variables, table, carry, fresh):
    # Fresh rows enter where the carry's have halted; all are worked on.
    slots = len(carry.halted)
    fresh_z = model.apply(variables, slots, method='initial_state')
    carry = act.admit(carry, fresh_z, fresh)
    # Again in each call: cheap beside a segment, and the carry stays small.
    x = embed(model, variables, table, carry.data)

    row = carry.data[_ROW]

    def segment(z, number):
      if width.noise:
        z = noisy(z, width, row, carry.steps + number)
      z = model.apply(variables, z, x, method='segment_without_gradient')
      return z, None

    # After a call of another mode a row may halt.
    count = settings.halt_max_steps if mode == 'fixed' else 1
    numbers = jnp.arange(count) if width.noise else None
    z, _ = jax.lax.scan(segment, carry.z, numbers, length=count)
    logits, q = model.apply(variables, z, method='heads')
    steps = carry.steps + count
    halted = (steps >= settings.halt_max_steps) | (row < 0)
    if mode == 'act':
      halted |= act.wants_halt(settings, q)
    elif mode == 'settled':
      before, _ = model.apply(variables, carry.z, method='heads')
      same = jnp.argmax(logits, axis=-1) == jnp.argmax(before, axis=-1)
      # Before the first segment there is no answer.
      halted |= jnp.all(same, axis=-1) & (carry.steps > 0)
    found = answers(logits, q, steps, carry.data['labels'])
    # The row that each slot has answered.
    answered = jnp.where(halted, row, -1)
    carry = carry.replace(z=z, steps=steps, halted=halted)
    return carry, (halted, answered), found

  inputs = sharding.place(mesh, 'puzzles'), split, split
  run = sharding.jitted(
    mesh, step, inputs, (split, whole, whole), donate_argnums=2
  )

  @functools.partial(jax.jit, static_argnums=1, out_shardings=split)
  def start(variables, size):
    z = model.apply(variables, size, method='initial_state')
    carry = act.initial_carry(z, size, model.seq_len)
    return carry.replace(data=carry.data | {_ROW: jnp.full(size, -1)})

  fewer = jax.jit(
    shrink, static_argnums=1, in_shardings=split, out_shardings=split
  )

  def predict(variables, table, read, count, batch_size):
    size = sharding.round_up(mesh, 'batch', min(batch_size, count))
    sizes = [
      sharding.round_up(mesh, 'batch', -(-size // shrunk)) for shrunk in _SHRUNK
    ]
    fill = _filling(mesh, read, count, size)
    carry, halted = start(variables, size), np.ones(size, bool)
    left, last = count, list[Any]()
    waiting, position = {}, 0

    def in_order(answered, found):
      nonlocal position
      found, ready = jax.device_get(found), []
      for slot in np.flatnonzero(answered >= 0):
        waiting[int(answered[slot])] = [array[slot] for array in found]
      while position in waiting:
        ready.append(waiting.pop(position))
        position += 1
      if ready:
        yield Predictions(*map(np.stack, zip(*ready, strict=True)))

    while left:
      smallest = min(s for s in sizes if s >= min(left, size))
      if smallest < size:
        size, carry = smallest, fewer(carry, smallest)
        halted = np.sort(halted)[:size]
      free = halted[sharding.local_rows(mesh, size)]
      fresh = sharding.global_batch(mesh, fill(free))
      carry, status, found = run(variables, table, carry, fresh)
      # While the devices work, the host does with the answers of the last call.
      if last:
        yield from in_order(*last)
      halted, answered = jax.device_get(status)
      left -= np.count_nonzero(answered >= 0)
      last = [answered, found]
    yield from in_order(*last)

  return predict


def _filling(
  mesh: Mesh, read: Read, count: int, size: int
) -> Callable[[np.ndarray], act.Batch]:
  """The function that puts this process's next rows in free slots, bool [b].

  They are dealt out to the processes in turns, so that all have about as many.
  All other slots have row -1.
  """
  own = sharding.local_rows(mesh, size)
  length = own.stop - own.start
  mine = slice(own.start // length, None, size // length)

  def numbered():
    for number, batch in enumerate(read(size, mine)):
      row = number * size + np.arange(size, dtype=np.int32)[mine]
      batch = {**batch, _ROW: row}
      yield {name: rows[row < count] for name, rows in batch.items()}

  batches = numbered()
  waiting = next(batches)

  def fill(free):
    nonlocal waiting
    slots = np.flatnonzero(free)
    while len(waiting[_ROW]) < len(slots) and (more := next(batches, None)):
      waiting = {n: np.concatenate([waiting[n], more[n]]) for n in waiting}
    slots = slots[: len(waiting[_ROW])]
    out = {}
    for name, rows in waiting.items():
      empty = -1 if name == _ROW else 0
      out[name] = np.full((len(free), *rows.shape[1:]), empty, rows.dtype)
      out[name][slots] = rows[: len(slots)]
      waiting[name] = rows[len(slots) :]
    return out

  return fill
