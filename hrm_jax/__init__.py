"""HRM-JAX: the Hierarchical Reasoning Model (arXiv 2506.21734) in JAX."""

import importlib
from typing import Any

__version__ = '0.1.0'

# Module of each public name, which is imported when the name is first used.
_MODULES = dict.fromkeys(('load', 'Solver', 'Answer', 'Fitting'), 'solver')
__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
  if name not in _MODULES:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  return getattr(importlib.import_module(f'{__name__}.{_MODULES[name]}'), name)


def __dir__() -> list[str]:
  return sorted({*globals(), *_MODULES})
