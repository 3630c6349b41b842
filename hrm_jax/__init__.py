"""HRM-JAX: the Hierarchical Reasoning Model (arXiv 2506.21734) in JAX.

Each public name is imported when it is first used: importing the package alone
starts nothing, defines no flags and does not import JAX.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from data_pipelines.errors import ConfigError, DataError
  from hrm_jax.compressarc.solving import compress
  from hrm_jax.models import HRM, TRM, URM, Direct, RecurrentTransformer
  from hrm_jax.settings import (
    ActSettings,
    DataSettings,
    DirectSettings,
    DivergenceSettings,
    EvaluationSettings,
    Fitting,
    HRMSettings,
    MeshSettings,
    OptimizerSettings,
    RecurrentTransformerSettings,
    Settings,
    TRMSettings,
    URMSettings,
    Width,
  )
  from hrm_jax.solver import Answer, Solver, load
  from hrm_jax.training.losses import (
    segment_loss,
    softmax_cross_entropy,
    stablemax_cross_entropy,
  )
  from hrm_jax.training.optimizers import (
    adam_atan2,
    muon,
    scale_by_adam_atan2,
    sign_sgd_rows,
    warmup_cosine,
  )
  from hrm_jax.training_run import train

__version__ = '0.1.0'

__all__ = [
  'HRM', 'TRM', 'URM', 'ActSettings', 'Answer', 'ConfigError', 'DataError',
  'DataSettings', 'Direct', 'DirectSettings', 'DivergenceSettings',
  'EvaluationSettings', 'Fitting', 'HRMSettings', 'MeshSettings',
  'OptimizerSettings', 'RecurrentTransformer', 'RecurrentTransformerSettings',
  'Settings', 'Solver', 'TRMSettings', 'URMSettings', 'Width', 'adam_atan2',
  'compress', 'load', 'muon', 'scale_by_adam_atan2', 'segment_loss',
  'sign_sgd_rows', 'softmax_cross_entropy', 'stablemax_cross_entropy', 'train',
  'warmup_cosine',
]  # fmt: skip

# The names that each module has, beside the settings, which are all others.
_MODULES = {
  'data_pipelines.errors': ('ConfigError', 'DataError'),
  'hrm_jax.compressarc.solving': ('compress',),
  'hrm_jax.models': ('HRM', 'TRM', 'URM', 'Direct', 'RecurrentTransformer'),
  'hrm_jax.solver': ('Answer', 'Solver', 'load'),
  'hrm_jax.training.losses': (
    'segment_loss', 'softmax_cross_entropy', 'stablemax_cross_entropy',
  ),
  'hrm_jax.training.optimizers': (
    'adam_atan2', 'muon', 'scale_by_adam_atan2', 'sign_sgd_rows',
    'warmup_cosine',
  ),
  'hrm_jax.training_run': ('train',),
}  # fmt: skip
_MODULE_OF = {name: module for module in _MODULES for name in _MODULES[module]}


def __getattr__(name: str) -> Any:
  if name not in __all__:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  module = importlib.import_module(_MODULE_OF.get(name, 'hrm_jax.settings'))
  return getattr(module, name)


def __dir__() -> list[str]:
  return sorted({*globals(), *__all__})
