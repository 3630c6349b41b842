"""Reads and writes all_config.yaml, a published run's settings."""

import contextlib
import pathlib
from typing import Any

import yaml

from data_pipelines import files
from data_pipelines.errors import ConfigError, DataError
from hrm_jax.published import names as published
from hrm_jax.settings import Settings, flat

# The published name of each kind of model.
ARCH_NAMES = {
  'hrm': 'hrm.hrm_act_v1@HierarchicalReasoningModel_ACTV1',
  'trm': 'recursive_reasoning.trm@TinyRecursiveReasoningModel_ACTV1',
  'urm': 'urm.urm@URM',
}


def read(path: pathlib.Path) -> dict[str, Any]:
  """Reads the settings of a published run.

  Returns:
    Our settings that the file tells: a dictionary `model`, others by dotted
    keys, and `seq_len`, the number of cells, where `text` wrote the file.

  Raises:
    ConfigError: the file is not that of a published run.
  """
  try:
    data = files.read(path, at_most=2**20)
    # What they stand for can be larger than any memory.
    if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(data)):
      raise ValueError('aliases, *NAME, are not read; write their values')
    settings = yaml.safe_load(data)
  # Some scalars make PyYAML raise a ValueError.
  except DataError:
    raise
  except (yaml.YAMLError, ValueError, RecursionError) as error:
    reason = ' '.join(str(error).split())[:300]
    raise ConfigError(
      f'{path}: not readable as YAML ({reason}); mend it or name another by '
      '--all_config=FILE'
    ) from None
  try:
    arch = {**settings['arch']}
    kind, model = published.model_fields(arch)
    act = published.act_fields(arch, kind)
    loss = arch['loss']['loss_type']
  except (KeyError, TypeError) as error:
    missing = error.args[0] if isinstance(error, KeyError) else 'arch or loss'
    raise ConfigError(
      f'{path}: not the all_config.yaml of a published run: {missing} is '
      'missing; name another by --all_config=FILE'
    ) from None
  if not isinstance(loss, str) or loss not in published.LOSSES:
    raise ConfigError(
      f'{path}: arch.loss.loss_type={loss!r} is unknown; use one of '
      + ', '.join(published.LOSSES)
    )
  if 'forward_dtype' in arch:
    model['dtype'] = arch['forward_dtype']
  out = {f'act.{key}': value for key, value in act.items()}
  out['loss'] = published.LOSSES[loss]
  ours = {'global_batch_size': 'batch_size', 'epochs': 'epochs', 'seed': 'seed'}
  for name, field in published.OPTIMIZER_FIELDS.items():
    ours[name] = f'optimizer.{field}'
  out |= {ours[name]: settings[name] for name in ours if name in settings}
  if settings.get('use_muon'):
    out |= {f'optimizer.{key}': value for key, value in published.MUON.items()}
  if settings.get('ema'):
    out['optimizer.ema_decay'] = settings.get('ema_rate', 0.999)
  usual = flat(Settings.published(kind).to_dict())
  out |= {f'model.{key}': value for key, value in model.items()}
  for key in out:
    # YAML reads 1e-4 as a text.
    if type(usual[key]) is float and isinstance(out[key], str):
      with contextlib.suppress(ValueError):
        out[key] = float(out[key])
  try:
    checked = flat(Settings.published(kind).replace(out).to_dict())
  except ConfigError as error:
    raise ConfigError(
      f'{path}: {error}; mend it or name another by --all_config=FILE'
    ) from None
  if checked['batch_size'] < 1:
    raise ConfigError(f'{path}: global_batch_size must be at least 1')
  told = {key: checked[f'model.{key}'] for key in model}
  found = {key: checked[key] for key in out if not key.startswith('model.')}
  # The published code does not write this; `text` does.
  if 'seq_len' in arch:
    found['seq_len'] = arch['seq_len']
  return {'model': told | {'kind': kind}, **found}


def text(config: Settings, seq_len: int) -> str:
  """Returns the text of a file that `read` and the published code read.

  `data_path` is our SPEC; the published code needs its own directory there.
  """
  fields = config.to_dict()
  model, act = fields['model'], fields['act']
  losses = {ours: theirs for theirs, ours in published.LOSSES.items()}
  out = {
    'arch': {
      'name': ARCH_NAMES[model['kind']],
      'loss': {'name': 'losses@ACTLossHead', 'loss_type': losses[config.loss]},
      **published.arch_of(model, act),
      'seq_len': seq_len,
    },
    'data_path': config.data.train,
    'data_paths': [config.data.train],
    'global_batch_size': config.batch_size,
    'epochs': config.epochs,
    'seed': config.seed,
    'ema': config.optimizer.ema_decay > 0,
    'use_muon': config.optimizer.kind == 'muon',
  }
  if out['ema']:
    out['ema_rate'] = config.optimizer.ema_decay
  out |= {
    theirs: fields['optimizer'][ours]
    for theirs, ours in published.OPTIMIZER_FIELDS.items()
  }
  return yaml.safe_dump(out)
