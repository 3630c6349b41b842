"""The arithmetic that a training step cannot do without."""

from jax.sharding import Mesh

from hrm_jax.models import ReasoningModel
from hrm_jax.models.layers import swiglu_width
from hrm_jax.parallel import hardware
from hrm_jax.training.step import TrainSetup


def block_flops(model: ReasoningModel) -> int:
  """FLOPs of the products in one forward pass of one block, per row.

  A multiply-add counts as two; F(x) is the width of a SwiGLU over x features:

    attention   2·T·(3·D² + D²) + 2·2·T²·D    projections; scores and values
    mlp_t       2·D·3·T·F(T)                  instead of attention
    SwiGLU      2·T·3·D·F(D)
    conv_swiglu 2·T·2·F(D) more               its filter of two tokens
  """
  settings = model.settings
  T, D = model.num_tokens, settings.hidden_size
  if getattr(settings, 'mlp_t', False):
    mixer = 2 * D * 3 * T * swiglu_width(T, settings.expansion)
  else:
    mixer = 2 * T * 4 * D * D + 4 * T * T * D
  products = 3 * D + (2 if settings.mlp == 'conv_swiglu' else 0)
  return mixer + 2 * T * products * swiglu_width(D, settings.expansion)


def ideal_step_flops(setup: TrainSetup) -> float:
  """FLOPs of the matrix products that the definition of a step asks for.

  With `all` and `learning` the blocks that a segment runs through and those of
  them with gradient, whose backward pass costs twice their forward pass,

    B · ((targets · all + all + 2 · learning) · block
         + 3 · 2·S·D·V                      logits and their gradient
         + (targets + 3) · 2·D·2)           Q values and their gradient

  where `targets` is 1 where the target of q_continue takes a segment more (its
  logits are not asked for), else 0, and Q values that are not trained have no
  gradient. Attention scores count as T², softmax, norms, embeddings and the
  optimizer as nothing, and whatever is computed twice to save memory as once.
  """
  model, act = setup.model, setup.act
  targets = int(act.halting == 'q_learning' and act.halt_max_steps > 1)
  passes, learning = model.settings.block_passes()
  blocks = (targets + 1) * passes + 2 * learning
  logits = 3 * 2 * model.seq_len * model.settings.hidden_size * model.vocab_size
  q_passes = targets + (3 if act.halting != 'none' else 1)
  q = q_passes * 2 * model.settings.hidden_size * 2
  return float(setup.batch_size * (blocks * block_flops(model) + logits + q))


def full_rate_seconds(setup: TrainSetup, mesh: Mesh) -> float | None:
  """Seconds of a step whose products run at the devices' full rate, if known.

  That is the rate in bfloat16, whatever the model's.
  """
  kind = mesh.devices.flat[0].device_kind
  rate = hardware.KINDS[kind].flops if kind in hardware.KINDS else None
  return rate and ideal_step_flops(setup) / (mesh.size * rate)
