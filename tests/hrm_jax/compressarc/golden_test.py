"""The published code's numbers, of tasks padded to one size.

So that is proved too that padding changes nothing.
"""

import json
import pathlib

import numpy as np
import pytest

from hrm_jax.compressarc import parity

_GOLDEN = pathlib.Path(__file__).parents[2] / 'golden' / 'compressarc'
# E, C, X and Y, more than any of the tasks has.
_SIZES = (9, 6, 4, 7)


def _worst(name, change=None):
  """The worst error of each group."""
  with np.load(_GOLDEN / f'{name}.npz') as file:
    arrays = dict(file)
  config = json.loads(str(arrays.pop('config', '{}')))
  worst = dict.fromkeys(parity.TOLERANCES, 0.0)
  if change:
    change(arrays)

  def record(group, key, error):
    del key
    worst[group] = max(worst[group], error)

  parity.replay(config, arrays.pop, record, _SIZES)
  assert not arrays
  return worst


def _exceeded(worst):
  return {
    group: error
    for group, error in worst.items()
    if not error <= parity.TOLERANCES[group]
  }


@pytest.mark.slow
@pytest.mark.parametrize('name', ['same', 'sizes', 'tests'])
def test_published_steps(name):
  worst = _worst(name)
  assert not _exceeded(worst), worst
  # Every group was compared.
  assert all(error > 0 for group, error in worst.items() if group != 'guesses')


def test_published_guesses():
  worst = _worst('guesses')
  assert not _exceeded(worst), worst
  assert worst['scores'] > 0


@pytest.mark.parametrize(
  'key, group',
  [
    ('known/first', 'guesses'),
    ('free/candidate', 'guesses'),
    ('free/rank', 'scores'),
    ('known/score', 'scores'),
    ('known/rank_score', 'scores'),
  ],
)
def test_a_wrong_number_is_found(key, group):
  def change(arrays):
    arrays[key][..., -1] += 1

  assert set(_exceeded(_worst('guesses', change))) == {group}
