"""Settings: what is refused, and how they are changed, read and written."""

import pytest

from data_pipelines.errors import ConfigError
from experiments.configs import base
from hrm_jax.models import KINDS
from hrm_jax.settings import (
  MODELS,
  ActSettings,
  DirectSettings,
  HRMSettings,
  OptimizerSettings,
  Settings,
)
from hrm_jax.training.losses import CELL_LOSSES


def test_every_kind_has_a_model():
  assert MODELS.keys() == KINDS.keys()


@pytest.mark.parametrize('loss', CELL_LOSSES)
def test_every_loss_is_a_setting(loss):
  assert Settings(loss=loss).loss == loss


@pytest.mark.parametrize('kind', MODELS)
def test_configs_and_records_give_the_same_settings(kind):
  settings = Settings.published(kind)
  assert settings.model.kind == kind
  assert Settings.from_config(base.get_config(kind)) == settings
  assert Settings.from_record(settings.to_dict(), 'config.json') == settings
  # What an old record lacks has the published value of its kind.
  old = {'model': {'kind': kind}}
  assert Settings.from_record(old, 'config.json') == settings


def test_a_config_names_every_setting_and_no_other():
  config = base.get_config('trm').to_dict()
  del config['act']['halting'], config['seed']
  config['model']['H_layers'] = 4
  message = (
    'config: act.halting is missing, model.H_layers is not known, seed is '
    'missing; a config of model.kind=trm is'
  )
  with pytest.raises(ConfigError, match=message):
    Settings.from_config(config)


def test_some_settings_are_replaced():
  sizes = {'model.hidden_size': 64, 'model.num_heads': 2}
  settings = Settings().replace({'seed': 3, 'act.halting': 'none', **sizes})
  assert (settings.seed, settings.act.halting) == (3, 'none')
  assert settings.model == HRMSettings(hidden_size=64, num_heads=2)
  # Whole numbers are numbers.
  assert type(settings.replace({'model.expansion': 2}).model.expansion) is float
  for unknown in ('layers', 'model.layers', 'model', 'seed.seed'):
    with pytest.raises(ConfigError, match=unknown):
      settings.replace({unknown: 1})


@pytest.mark.parametrize(
  'act', [{'halt_max_steps': 2}, {'halting': 'q_learning'}]
)
def test_direct_prediction_has_no_segments_to_halt_after(act):
  fields = {'halt_max_steps': 1, 'halting': 'none'} | act
  with pytest.raises(ConfigError, match=r"halt_max_steps=1 and .*'none'"):
    Settings(model=DirectSettings(), act=ActSettings(**fields))


@pytest.mark.parametrize(
  'make, message',
  [
    (lambda: Settings(loss='hinge'), "loss='hinge' is unknown; use one of"),
    (lambda: HRMSettings(num_heads=5), 'num_heads=5'),
    (lambda: OptimizerSettings(ema_decay=1.0), r'ema_decay=1\.0'),
    (lambda: Settings(microbatches=0), 'microbatches=0 must be at least 1'),
    (lambda: Settings(keep_checkpoints=0), 'keep_checkpoints=0'),
    (lambda: Settings(keep_best=-1), 'keep_best=-1'),
    (lambda: Settings(keep_every=-1), 'keep_every=-1'),
  ],
)
def test_wrong_settings_are_named(make, message):
  with pytest.raises(ConfigError, match=message):
    make()
