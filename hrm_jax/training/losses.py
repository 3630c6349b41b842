"""Cell losses and the loss of one ACT segment (paper sections 2 and 3)."""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import optax

from data_pipelines.batches import IGNORE_LABEL


def log_stablemax(x: chex.Array) -> chex.Array:
  """log s(x) with s(x) = x + 1 for x ≥ 0 and 1 / (1 - x) for x < 0.

  Written as ±log1p(|x|), in which float32 loses nothing at large |x|. Each
  branch sees a clamped input, so that the branch not taken has a finite
  gradient; the derivative is 1 / (1 + |x|) everywhere, 0 included.
  """
  positive = jnp.where(x >= 0, x, 0.0)
  negative = jnp.where(x >= 0, 0.0, -x)
  return jnp.where(x >= 0, jnp.log1p(positive), -jnp.log1p(negative))


def _cross_entropy(scores_V: chex.Array, labels: chex.Array) -> chex.Array:
  # A mask over the small vocabulary, where a gather would need a scatter.
  chosen = jax.nn.one_hot(labels, scores_V.shape[-1], dtype=scores_V.dtype)
  total = jax.nn.logsumexp(scores_V, axis=-1)
  return total - jnp.sum(scores_V * chosen, axis=-1)


def stablemax_cross_entropy(
  logits_BSV: chex.Array, labels_BS: chex.Array
) -> chex.Array:
  """-log(s(x_y) / Σ s(x_v)) for each cell, float32 [B, S]."""
  scores = log_stablemax(logits_BSV.astype(jnp.float32))
  return _cross_entropy(scores, labels_BS)


def softmax_cross_entropy(
  logits_BSV: chex.Array, labels_BS: chex.Array
) -> chex.Array:
  """-log softmax(x)_y for each cell, float32 [B, S]."""
  return _cross_entropy(logits_BSV.astype(jnp.float32), labels_BS)


CellLoss = Callable[[chex.Array, chex.Array], chex.Array]

CELL_LOSSES: dict[str, CellLoss] = {
  'stablemax': stablemax_cross_entropy,
  'softmax': softmax_cross_entropy,
}


@jax.named_scope('loss')
def segment_loss(
  cell_loss: CellLoss,
  logits_BSV: chex.Array,
  q_B2: chex.Array,
  labels_BS: chex.Array,
  halted_B: chex.Array,
  steps_B: chex.Array,
  target_continue_B: chex.Array | None,
  q_trained: bool = True,
) -> tuple[chex.Array, dict[str, chex.Array]]:
  """Loss of one segment and its metrics, as sums over the batch.

  The cell losses are averaged over each row's counted cells and summed over
  rows; the Q losses run over all rows, halted or not.

  Args:
    cell_loss: a function of CELL_LOSSES.
    logits_BSV: logits of the cells.
    q_B2: (q_halt, q_continue), float32.
    labels_BS: int32; IGNORE_LABEL where a cell does not count.
    halted_B: bool, after this segment.
    steps_B: int32, segments done, this one included.
    target_continue_B: target of q_continue; None drops its loss.
    q_trained: False drops all Q losses, and what they measure.

  Returns:
    The loss, and metrics. Losses sum over all rows; `accuracy`,
    `exact_accuracy`, `q_halt_accuracy` and `steps` over the `count` rows that
    halted and have counted cells.
  """
  counted_BS = labels_BS != IGNORE_LABEL
  cells_B = jnp.sum(counted_BS, axis=-1)
  per_row = 1.0 / jnp.maximum(cells_B, 1)

  loss_BS = cell_loss(logits_BSV, jnp.where(counted_BS, labels_BS, 0))
  lm_loss = jnp.sum(jnp.sum(loss_BS * counted_BS, axis=-1) * per_row)

  right_BS = counted_BS & (jnp.argmax(logits_BSV, axis=-1) == labels_BS)
  right_B = jnp.sum(right_BS, axis=-1)
  # A row without counted cells counts as solved here, and in no metric.
  solved_B = right_B == cells_B

  valid_B = halted_B & (cells_B > 0)
  metrics = {
    'count': jnp.sum(valid_B),
    'accuracy': jnp.sum(jnp.where(valid_B, right_B * per_row, 0.0)),
    'exact_accuracy': jnp.sum(valid_B & solved_B),
    'steps': jnp.sum(jnp.where(valid_B, steps_B, 0)),
    'lm_loss': lm_loss,
  }
  loss = lm_loss
  q_loss = optax.sigmoid_binary_cross_entropy
  if q_trained:
    q_halt_B = q_B2[:, 0]
    right_B = (q_halt_B >= 0) == solved_B
    metrics['q_halt_accuracy'] = jnp.sum(valid_B & right_B)
    losses_B = q_loss(q_halt_B, solved_B.astype(jnp.float32))
    metrics['q_halt_loss'] = jnp.sum(losses_B)
    loss += 0.5 * metrics['q_halt_loss']
  if target_continue_B is not None:
    losses_B = q_loss(q_B2[:, 1], target_continue_B)
    metrics['q_continue_loss'] = jnp.sum(losses_B)
    loss += 0.5 * metrics['q_continue_loss']
  return loss, metrics | {'loss': loss}
