"""What counts as divergence."""

import jax.numpy as jnp
import numpy as np
import pytest

from hrm_jax.settings import DivergenceSettings
from hrm_jax.training import divergence

INF, NAN = float('inf'), float('nan')


@pytest.mark.parametrize(
  'loss, mean, square, spike, reason',
  [
    (1.0, INF, 4.0, 0.0, 'healthy'),
    (NAN, 1.0, 4.0, 0.0, 'the loss is not finite'),
    (INF, 1.0, NAN, 3.0, 'the loss is not finite'),
    (1.0, 1.0, NAN, 3.0, 'the gradient is not finite'),
    # What float32 cannot square.
    (1.0, 1.0, INF, 0.0, 'the gradient is not finite'),
    (3.1, 1.0, 4.0, 3.0, 'the loss has jumped'),
    (2.9, 1.0, 4.0, 3.0, 'healthy'),
    (99.0, 1.0, 4.0, 0.0, 'healthy'),
    # There is nothing yet to compare with.
    (99.0, INF, 4.0, 3.0, 'healthy'),
  ],
)
def test_the_first_reason_that_holds(loss, mean, square, spike, reason):
  found = divergence.diagnose(
    DivergenceSettings(loss_spike=spike),
    jnp.float32(loss),
    jnp.float32(mean),
    {'a': {'b': jnp.float32(square), 'c': jnp.float32(5.0)}, 'd': [square * 0]},
    jnp.array([3, 1]),
  )
  assert divergence.REASONS[found.reason] == reason
  if np.isfinite(square):
    assert found.gradient_norms == {'a': 3.0, 'd': 0.0}
    assert found.gradient_norm == 3.0


def test_the_mean_starts_at_the_first_loss():
  mean = jnp.float32(INF)
  for loss, expected in ((2.0, 2.0), (4.0, 2.02), (4.0, 2.0398)):
    mean = divergence.next_loss_mean(mean, jnp.float32(loss))
    np.testing.assert_allclose(mean, expected, rtol=1e-6)
