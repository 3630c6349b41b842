"""JAX, imported without notes of the devices that a machine does not have.

Where compilers for TPUs and GPUs are installed without these (`[aot-gpu]`), JAX
would try them as backends, with a traceback, and the CUDA libraries tell of
their missing driver whenever they are loaded.
"""

import contextlib
import ctypes
import glob
import importlib.abc
import importlib.machinery
import importlib.util
import os
import pathlib
import sys

from data_pipelines import quiet

# NVIDIA's GPUs, in Windows too; TPUs, old and new; AMD's GPUs.
_DEVICES = (
  '/dev/nvidia*', '/dev/dxg', '/dev/accel*', '/dev/vfio/[0-9]*', '/dev/kfd',
)  # fmt: skip
_COMPILERS = ('libtpu', 'jax_plugins.xla_cuda12')


def prepare() -> None:
  """Makes JAX take the CPU alone, beside compilers for what is not there.

  JAX itself is not imported: commands that do without it start at once.
  """
  try:
    found = any(importlib.util.find_spec(name) for name in _COMPILERS)
  except ModuleNotFoundError:
    # No plugins of JAX at all.
    found = False
  if not found or any(map(glob.glob, _DEVICES)):
    return
  os.environ.setdefault('JAX_PLATFORMS', 'cpu')
  if 'jax' not in sys.modules:
    sys.meta_path.insert(0, _Muted())


class _Muted(importlib.abc.MetaPathFinder):
  """Finds JAX as usual, and mutes standard error while it is loaded."""

  def find_spec(self, fullname, path, target=None):
    if fullname != 'jax':
      return None
    found = importlib.machinery.PathFinder.find_spec(fullname, path)
    load = found.loader.exec_module

    def muted(module):
      with quiet.muted():
        load(module)
        with contextlib.suppress(ImportError, OSError):
          # Loaded by JAX later: its note comes with the first time.
          plugin = importlib.util.find_spec('jax_plugins.xla_cuda12')
          for folder in plugin.submodule_search_locations if plugin else ():
            ctypes.CDLL(str(pathlib.Path(folder) / 'xla_cuda_plugin.so'))

    found.loader.exec_module = muted
    return found
