"""What `import hrm_jax` costs, and the names that it gives."""

import subprocess
import sys

import hrm_jax

# Imports it, and prints what it took and what has been imported by then.
_IMPORT = """
import sys, time
begin = time.perf_counter()
import hrm_jax
spent = time.perf_counter() - begin
hrm_jax.Settings.published('trm')
started = {'jax', 'flax', 'absl.flags', 'tensorflow', 'experiments'}
print(spent, *started & sys.modules.keys())
"""


def test_importing_it_starts_nothing():
  # The best of three: other processes share the machine.
  found = [
    subprocess.run(
      [sys.executable, '-c', _IMPORT],
      check=True,
      capture_output=True,
      text=True,
    ).stdout.split()
    for _ in range(3)
  ]
  assert all(len(words) == 1 for words in found), found
  assert min(float(words[0]) for words in found) < 0.5


def test_every_public_name_is_there():
  assert sorted(hrm_jax.__all__) == sorted(set(hrm_jax.__all__))
  for name in hrm_jax.__all__:
    found = getattr(hrm_jax, name)
    # Functions and classes, and no module that has taken a name.
    assert found.__name__ == name
    assert found.__doc__
  assert {*hrm_jax.__all__} <= {*dir(hrm_jax)}
  assert not hasattr(hrm_jax, 'Trainer')
