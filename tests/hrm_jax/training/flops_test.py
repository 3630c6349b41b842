"""Counted FLOPs against those that XLA counts in the step it is given."""

import types

import jax
import numpy as np
import pytest

from hrm_jax.parallel import sharding
from hrm_jax.settings import ActSettings, OptimizerSettings
from hrm_jax.training import flops
from hrm_jax.training import step as train_step
from tests import builders

# Elementwise work, which XLA counts and the formula does not, is small at
# these sizes. XLA counts the body of a loop once: no update is repeated.
B, S, V, D, N = 16, 40, 11, 256, 2
SIZES = dict(
  vocab_size=V, seq_len=S, hidden_size=D, num_heads=N, puzzle_emb_ndim=D,
  attention='xla',
)  # fmt: skip
TWO_STATE = SIZES | dict(H_cycles=1, L_cycles=1)


def _setup(model, halting='none', halt_max_steps=4):
  return train_step.TrainSetup(
    model=model,
    act=ActSettings(halt_max_steps, 0.1, halting),
    optimizer=OptimizerSettings(),
    loss='stablemax',
    total_steps=10,
    batch_size=B,
    num_puzzle_identifiers=5,
    seed=0,
  )


def _hrm(**fields):
  return builders.model(
    'hrm', **(TWO_STATE | dict(H_layers=1, L_layers=2) | fields)
  )


def _trm(**fields):
  return builders.model('trm', **(TWO_STATE | dict(puzzle_emb_len=2) | fields))


@pytest.mark.parametrize(
  'setup',
  [
    _setup(_hrm(), 'q_learning'),
    _setup(_hrm(), 'q_learning', halt_max_steps=1),
    _setup(_hrm(), 'halt_only'),
    _setup(_hrm(gradient='full')),
    _setup(_trm(), 'halt_only'),
    _setup(_trm(mlp_t=True, pos_encodings='none'), 'q_learning'),
    _setup(builders.model('direct', **SIZES, layers=2), halt_max_steps=1),
    _setup(
      builders.model('recurrent_transformer', **SIZES, layers=2), 'q_learning'
    ),
  ],
)
def test_xla_counts_the_same(setup):
  mesh = sharding.make_mesh(jax.devices()[:1])
  cells = jax.ShapeDtypeStruct((B, S), np.int32)
  batch = {
    'inputs': cells,
    'labels': cells,
    'puzzle_identifiers': jax.ShapeDtypeStruct((B,), np.int32),
  }
  state = train_step.abstract_state(setup, mesh)
  lowered = train_step.sharded_step(setup, mesh).lower(state, batch)
  counted = lowered.cost_analysis()['flops']
  assert flops.ideal_step_flops(setup) == pytest.approx(counted, rel=0.02)


@pytest.mark.parametrize(
  'gradient, learning',
  [('one_step', 3 + 2), ('last_1', 2), ('last_4', 3 + 3 + 3 + 2), ('full', 22)],
)
def test_passes_of_a_segment(gradient, learning):
  # Two cycles of three updates of z_L, 3 blocks each, and one of z_H, 2.
  model = _hrm(
    H_layers=2, L_layers=3, H_cycles=2, L_cycles=3, gradient=gradient
  )
  assert model.settings.block_passes() == (22, learning)


def test_the_published_setting():
  # A row of ARC: 64 passes of blocks of 512, 901 tokens.
  model = builders.model('hrm', vocab_size=12, seq_len=900)
  block = 901 * (2 * (4 * 512**2 + 3 * 512 * 1536) + 4 * 901 * 512)
  assert flops.block_flops(model) == block
  setup = _setup(model, 'q_learning', 16)
  total = flops.ideal_step_flops(setup)
  assert total == pytest.approx(B * 64 * block, rel=1e-3)


@pytest.mark.parametrize('kind, rate', [('TPU v5 lite', 197e12), ('cpu', None)])
def test_the_full_rate_is_of_all_devices(kind, rate):
  device = types.SimpleNamespace(device_kind=kind)
  mesh = types.SimpleNamespace(devices=np.full(4, device), size=4)
  setup = _setup(_hrm())
  seconds = flops.full_rate_seconds(setup, mesh)
  assert seconds == (rate and flops.ideal_step_flops(setup) / (4 * rate))


def test_urm_costs_what_its_paper_says():
  # spec/urm.md: 48 forward, 24 of them with gradient; 0.07 % for the filter.
  urm = builders.model('urm', 12, 900)
  assert urm.settings.block_passes() == (48, 24)
  plain = builders.model('urm', 12, 900, mlp='swiglu')
  ratio = flops.block_flops(urm) / flops.block_flops(plain)
  assert ratio == pytest.approx(1.0007, abs=5e-5)
