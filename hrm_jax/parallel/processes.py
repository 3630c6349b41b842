"""What the processes of one run agree on besides arrays."""

import itertools
from collections.abc import Callable

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from data_pipelines.errors import ConfigError, DataError

# One that has died is known sooner.
_PATIENCE_SECONDS = 3600
_calls = itertools.count()


def from_first(function: Callable[[], int | None]) -> int:
  """What `function` gives in process 0, which alone calls it.

  For what is done to files that all processes share; None counts as 0.

  Raises:
    ConfigError, DataError: `function` raised it.
  """
  value = 0
  failure: ConfigError | DataError | None = None
  if jax.process_index() == 0:
    try:
      value = function() or 0
    except (ConfigError, DataError) as error:
      failure = error
  if jax.process_count() > 1:
    meet()
    # Not as one number: JAX would make it 32 bits.
    parts = np.array([failure is not None, *divmod(value, 2**31)], np.int32)
    failed, high, low = map(int, multihost_utils.broadcast_one_to_all(parts))
    value = high * 2**31 + low
    if failed and not failure:
      failure = ConfigError('stopped: process 0 says why')
  if failure:
    raise failure
  return value


def any_of(value: bool) -> bool:
  """Whether a value is true in one of the processes; all of them call it."""
  if jax.process_count() == 1:
    return value
  meet()
  return bool(multihost_utils.process_allgather(np.array(value)).any())


def meet(seconds: int = _PATIENCE_SECONDS) -> None:
  """Waits for all processes, longer than a collective does (30 s on CPUs)."""
  if jax.process_count() > 1:
    wait = ocp.multihost.get_barrier_sync_fn()
    wait(key=f'meet_{next(_calls)}', timeout_ms=seconds * 1000)
