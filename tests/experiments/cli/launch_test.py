"""Compiled programs are kept, and what happens where they cannot be."""

import json
import os
import pathlib
import subprocess
import sys
import time
import types

import pytest

from experiments.cli import launch

_ROOT = pathlib.Path(__file__).parents[3]

# A command that compiles something large enough to keep; prints its results.
_COMMAND = """
import hashlib, jax, jax.numpy as jnp
from experiments.cli import command, launch, shared_flags

def main(argv):
  hits = []
  jax.monitoring.register_event_listener(lambda name, **_: hits.append(name))
  def f(x):
    for n in range(60):
      x = jnp.sin(x @ x) + jnp.cumsum(jnp.sort(x * n, axis=n % 2), axis=0)
      x = x / jnp.max(jnp.abs(x))
    return x
  out = jax.jit(f)(jnp.linspace(-1, 1, 1024).reshape(32, 32))
  digest = hashlib.sha256(bytes(jax.device_get(out))).hexdigest()
  import json
  print(json.dumps([digest, hits.count('/jax/compilation_cache/cache_hits')]))

command.run(main, shared_flags.define(*shared_flags.JAX), launch.start)
"""


def _run(**variables):
  unset = 'HRM_JAX_CACHE', 'JAX_COMPILATION_CACHE_DIR', 'XDG_CACHE_HOME'
  kept = {k: v for k, v in os.environ.items() if k not in unset}
  done = subprocess.run(
    [sys.executable, '-c', _COMMAND],
    cwd=_ROOT,
    env=kept | variables,
    capture_output=True,
    text=True,
    timeout=120,
    check=True,
  )
  assert 'cache' not in done.stderr.lower()
  assert 'feature' not in done.stderr.lower()
  return json.loads(done.stdout)


@pytest.mark.parametrize(
  'variable, below',
  [
    ('HRM_JAX_CACHE', 'xla'),
    pytest.param('XDG_CACHE_HOME', 'hrm_jax/xla', marks=pytest.mark.slow),
    pytest.param('JAX_COMPILATION_CACHE_DIR', '.', marks=pytest.mark.slow),
  ],
)
def test_the_second_process_compiles_nothing_and_computes_the_same(
  tmp_path, variable, below
):
  first, hits = _run(**{variable: str(tmp_path)})
  assert hits == 0
  assert any((tmp_path / below).glob('jit_f-*'))
  second, hits = _run(**{variable: str(tmp_path)})
  assert hits > 0
  assert first == second


def test_a_directory_that_cannot_be_made_is_done_without(tmp_path):
  (tmp_path / 'file').touch()
  _, hits = _run(HRM_JAX_CACHE=str(tmp_path / 'file'))
  assert hits == 0


def test_answers_to_a_save_that_has_failed_are_not_told(monkeypatch):
  told = []
  monkeypatch.setattr(sys, 'unraisablehook', told.append)
  launch._ignore_late_answers()
  for text in ('Event loop is closed', 'something else'):
    sys.unraisablehook(types.SimpleNamespace(exc_value=RuntimeError(text)))
  assert [str(found.exc_value) for found in told] == ['something else']


@pytest.mark.skipif(sys.platform != 'linux', reason='Linux tells it')
def test_a_process_is_older_than_what_it_imports(monkeypatch):
  since_import = time.monotonic() - launch._IMPORTED
  # JAX is imported before.
  assert launch.age() > since_import + 0.05
  # A sandbox that tells the age of the machine is not believed.
  monkeypatch.setattr(time, 'clock_gettime', lambda _: 1e9)
  assert since_import <= launch.age() < since_import + 0.05
