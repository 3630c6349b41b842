"""The published numbers, and what the tool says of damaged files."""

import json
import pathlib

import jax
import numpy as np
import pytest

from data_pipelines.errors import ConfigError
from experiments import verify_parity

pytestmark = pytest.mark.slow

_GOLDEN = pathlib.Path(__file__).parents[1] / 'golden'
_FILES = sorted(path.name for path in _GOLDEN.glob('*.npz'))


@pytest.mark.parametrize('name', _FILES)
def test_published_numbers(name):
  with jax.default_matmul_precision('highest'):
    errors = verify_parity.replay(str(_GOLDEN / name))
  assert errors.ok, verify_parity.report(name, errors)


def test_guesses_of_compressarc():
  path = str(_GOLDEN / 'compressarc' / 'guesses.npz')
  errors = verify_parity.replay(path)
  assert errors.ok
  assert '"ok": true' in verify_parity.report(path, errors)


def test_all_golden_files_are_there():
  assert len(_FILES) == 9


def _damaged(tmp_path, change):
  """A copy of a golden file after `change(arrays)`."""
  with np.load(_GOLDEN / 'hrm_no_puzzle.npz') as file:
    arrays = dict(file)
  change(arrays)
  path = tmp_path / 'damaged.npz'
  np.savez(path, **arrays)
  return str(path)


def _change_config(**changes):
  def change(arrays):
    config = json.loads(str(arrays['config']))
    config['arch'].update(changes)
    arrays['config'] = json.dumps(config)

  return change


@pytest.mark.parametrize(
  'change, message',
  [
    (lambda a: a.pop('param/inner.H_init'), 'inner.H_init is missing'),
    (lambda a: a.update({'param/odd': np.ones(1)}), 'odd is not known'),
    (lambda a: a.update({'odd': np.ones(1)}), 'keys not known: odd'),
    (lambda a: a.pop('config'), "'config' is missing"),
    (lambda a: a.update(config='{'), 'config is not JSON'),
    (lambda a: a.pop('batch0/inputs'), "'batch0/inputs' is missing"),
    (
      lambda a: a.update({'param/inner.lm_head.weight': np.ones((2, 2))}),
      'inner.lm_head.weight has shape',
    ),
    (_change_config(mlp_t=True), 'keys not known: mlp_t'),
    (_change_config(num_heads=5), 'num_heads=5'),
  ],
)
def test_damaged_files_are_named(tmp_path, change, message):
  path = _damaged(tmp_path, change)
  with pytest.raises(ConfigError, match=message):
    verify_parity.replay(path)


def test_a_wrong_number_exceeds_its_tolerance(tmp_path):
  def change(arrays):
    arrays['param_final/inner.q_head.bias'] *= 1.0 + 1e-5

  errors = verify_parity.replay(_damaged(tmp_path, change))
  assert not errors.ok
  worst, where = errors.worst['final parameters']
  assert worst > 2e-6
  assert where == 'param_final/inner.q_head.bias'


def test_not_an_archive(tmp_path):
  path = tmp_path / 'text.npz'
  path.write_text('not an archive')
  with pytest.raises(ConfigError, match=r'text\.npz'):
    verify_parity.replay(str(path))
