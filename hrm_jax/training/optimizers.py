"""Adam-atan2 or Muon for dense parameters, sign-SGD for puzzle embeddings."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax
import optax.contrib

from hrm_jax.parallel import sharding


def warmup_cosine(
  warmup_steps: int, total_steps: int, min_ratio: float, first_step: int = 1
) -> optax.Schedule:
  """Fraction of the base rate, as a function of the steps already done.

  The update after `count` steps is step s = count + `first_step`. Up to
  `warmup_steps` the fraction is s / warmup_steps; from there a cosine leads
  from 1 to `min_ratio` at `total_steps`. `min_ratio` 1 keeps it constant.
  """

  def schedule(count: chex.Numeric) -> chex.Numeric:
    step = jnp.asarray(count, jnp.float32) + float(first_step)
    remaining: chex.Numeric = 1.0
    if total_steps > warmup_steps:
      remaining = (total_steps - step) / (total_steps - warmup_steps)
    # ½(1 + cos π(1 - r)), in the form that stays exact to float32 near r = 0.
    cosine = jnp.sin(0.5 * jnp.pi * jnp.clip(remaining, 0.0, 1.0)) ** 2
    return jnp.where(
      step < warmup_steps,
      step / max(1, warmup_steps),
      min_ratio + (1.0 - min_ratio) * cosine,
    )

  return schedule


class ScaleByAdamAtan2State(NamedTuple):
  count: chex.Array
  mu: optax.Updates
  nu: optax.Updates


def scale_by_adam_atan2(
  b1: float = 0.9, b2: float = 0.95
) -> optax.GradientTransformation:
  r"""Adam with the quotient replaced by an arc tangent: no epsilon.

  With the usual moments m and v of the gradient, step t gives

  $$ u_t = \frac{1}{1 - b_1^t}
      \operatorname{atan2}\left(m_t, \sqrt{v_t} / \sqrt{1 - b_2^t}\right). $$

  As in HRM's published optimizer the first bias correction multiplies the
  result and is not inside the atan2, and there are no scale constants (they
  are in arXiv 2407.05872, where the rule comes from).

  >>> import jax.numpy as jnp
  >>> tx = scale_by_adam_atan2()
  >>> updates, _ = tx.update(jnp.ones(1), tx.init(jnp.zeros(1)))
  >>> float(updates[0])  # 10 · atan2(0.1, 1)
  0.996...
  """

  def init(params):
    return ScaleByAdamAtan2State(
      count=jnp.zeros([], jnp.int32),
      mu=optax.tree.zeros_like(params),
      nu=optax.tree.zeros_like(params),
    )

  def update(updates, state, params=None):
    del params
    count = optax.safe_increment(state.count)
    mu = optax.tree.update_moment(updates, state.mu, b1, 1)
    nu = optax.tree.update_moment(updates, state.nu, b2, 2)
    correction1 = 1.0 - b1**count
    correction2 = jnp.sqrt(1.0 - b2**count)
    updates = jax.tree.map(
      lambda m, v: _arctan2(m, jnp.sqrt(v) / correction2) / correction1, mu, nu
    )
    return updates, ScaleByAdamAtan2State(count, mu, nu)

  return optax.GradientTransformation(init, update)


# atan(t) / t as a polynomial in t², least largest relative error on [0, 1]:
# 1.6e-8, a quarter of float32's rounding.
_ATAN = (
  1.0, -0.33333075046539307, 0.1999262422323227, -0.14203670620918274,
  0.1064102053642273, -0.07504457980394363, 0.04269326850771904,
  -0.016069626435637474, 0.0028501234482973814,
)  # fmt: skip


def _arctan2(y: chex.Array, x: chex.Array) -> chex.Array:
  """atan2(y, x) for finite y and x ≥ 0, to 2 units of float32's last place.

  `jnp.arctan2` on a CPU takes ten times what the rest of the update takes.
  """
  # A comparison, unlike min and max, keeps NaN.
  steep = jnp.abs(y) > x
  low, high = jnp.where(steep, x, jnp.abs(y)), jnp.where(steep, jnp.abs(y), x)
  t = low / jnp.where(high == 0, 1.0, high)
  # Also of two infinities, as of two zeros but for their angle.
  t = jnp.where((low == high) & (high > 0), 1.0, t)
  angle = t * jnp.polyval(jnp.array(_ATAN[::-1], t.dtype), t * t)
  return jnp.copysign(jnp.where(steep, jnp.pi / 2 - angle, angle), y)


def adam_atan2(
  learning_rate: optax.ScalarOrSchedule,
  b1: float = 0.9,
  b2: float = 0.95,
  weight_decay: float = 0.0,
) -> optax.GradientTransformation:
  """Adam-atan2 with decoupled decay: p ← p · (1 - lr · wd) - lr · u."""
  return optax.chain(
    scale_by_adam_atan2(b1, b2),
    optax.add_decayed_weights(weight_decay),
    optax.scale_by_learning_rate(learning_rate),
  )


# a, b and c of each turn of X ← aX + (bA + cA²)X, A = XXᵀ (URM).
_TURNS = (
  (7.2086, -15.5131, 9.0178), (3.9623, -2.5813, 0.4542),
  (3.9466, -2.5765, 0.4544), (3.8991, -2.5671, 0.4566),
  (3.7186, -2.5308, 0.4653),
)  # fmt: skip


def muon(
  learning_rate: optax.ScalarOrSchedule,
  specs_of: Callable[[Any], Any],
  b1: float = 0.9,
  b2: float = 0.95,
  weight_decay: float = 0.1,
) -> optax.GradientTransformation:
  r"""Muon for matrices and Adam for the rest, both with decoupled decay.

  With m ← 0.95 m + g and n = g + 0.95 m, a matrix takes the step

  $$ p \leftarrow p (1 - lr\, wd)
      - lr \cdot 0.2 \sqrt{\max(rows, columns)} \cdot X, $$

  where X is n / ‖n‖ made nearly orthogonal by five turns, as URM's published
  optimizer does (arXiv 2512.14693); that one also rounds n to bfloat16 before.
  `optax.contrib.muon` corrects a bias of m and of g apart, so that its n is
  another: its turns are used here, its momentum is not. Arrays of other than
  two axes are Adam's, with b1, b2 and epsilon 1e-8.

  Args:
    learning_rate: rate of both.
    specs_of: how each array of a tree of parameters is split over the mesh; a
      matrix is put together on each device before it is made orthogonal.
    b1: decay of Adam's first moment.
    b2: decay of Adam's second moment.
    weight_decay: decay of both.
  """
  # Its state is as good as none: without momentum nothing is carried over.
  turns = optax.contrib.scale_by_muon(
    _TURNS,
    beta=0.0,
    eps=1e-12,
    nesterov=False,
    weight_dimension_numbers=lambda tree: jax.tree.map(
      lambda _: optax.contrib.MuonDimensionNumbers(), tree
    ),
  )

  def orthogonalize(updates, params=None):
    del params
    specs = specs_of(updates)
    updates = sharding.whole(updates, specs)
    # In float32, also where the hardware would round products.
    with jax.default_matmul_precision('highest'):
      updates, _ = turns.update(updates, turns.init(updates))
    updates = jax.tree.map(lambda x: 0.2 * max(x.shape) ** 0.5 * x, updates)
    return sharding.part(updates, specs)

  def rules(params):
    return jax.tree.map(lambda x: 'muon' if x.ndim == 2 else 'adam', params)

  momentum = optax.trace(0.95, nesterov=True)
  return optax.chain(
    optax.partition(
      {
        'muon': optax.chain(momentum, optax.stateless(orthogonalize)),
        'adam': optax.scale_by_adam(b1, b2),
      },
      rules,
    ),
    optax.add_decayed_weights(weight_decay),
    optax.scale_by_learning_rate(learning_rate),
  )


def sign_sgd_rows(
  table_RE: chex.Array,
  rows_B: chex.Array,
  gradients_BE: chex.Array,
  learning_rate: chex.Numeric,
  weight_decay: float,
) -> chex.Array:
  """Sign-SGD on the rows of this step only: p ← p·(1 - lr·wd) - lr·sign(g).

  Gradients of equal rows in `rows_B` are summed first, so that a repeated row
  moves and decays once; a row with zero gradient only decays; other rows stay.
  Costs O(B · E) time and memory, never O(R), where the table is donated.
  """
  R, B = len(table_RE), len(rows_B)
  # Unused slots get row R, which the scatter drops.
  unique_B, slot_B = jnp.unique(
    rows_B, size=B, fill_value=R, return_inverse=True
  )
  summed_BE = jax.ops.segment_sum(gradients_BE, slot_B, num_segments=B)
  old_BE = table_RE.at[unique_B].get(mode='clip')
  new_BE = old_BE * (1.0 - learning_rate * weight_decay)
  new_BE -= learning_rate * jnp.sign(summed_BE)
  # Sorted, but not declared unique: row R may stand several times.
  return table_RE.at[unique_B].set(new_BE, mode='drop', indices_are_sorted=True)
