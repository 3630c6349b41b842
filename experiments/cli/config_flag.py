"""The flag --config: an experiment by name or by path, and its settings."""

import difflib
import importlib
import importlib.util
import pathlib
import re
import sys
from collections.abc import Callable
from typing import Any

import ml_collections
from absl import flags
from ml_collections import config_flags

from hrm_jax.settings import flat

_CONFIGS = pathlib.Path(__file__).parents[1] / 'configs'


def define(
  name: str, default: None, help: str, flag_values: flags.FlagValues
) -> None:
  """Defines the flag, and --NAME.KEY=VALUE for each setting."""
  config_flags.DEFINE_config_file(name, default, help, flag_values=flag_values)
  flag_values[name].parser = _ConfigParser()


def names() -> list[str]:
  """The experiments that --config takes by name."""
  found = {file.stem for file in _CONFIGS.glob('*.py')}
  return sorted(found - {'__init__', 'base'})


class _ConfigParser(flags.ArgumentParser):
  """Loads an experiment, and checks the names of the settings to change."""

  def parse(self, argument: str) -> ml_collections.ConfigDict:
    name, *variant = argument.split(':', 1)
    try:
      found = _get_config(name)(*variant)
    except ValueError:
      raise
    except Exception as error:  # A file may raise anything.
      raise ValueError(f'{type(error).__name__}: {error}') from None
    if not isinstance(found, ml_collections.ConfigDict):
      raise ValueError('its get_config returns no ConfigDict')
    known = [*flat(found.to_dict())]
    for word in sys.argv:
      if given := re.match(r'--?(?:no)?config\.([^=\[]*)', word):
        _check_setting(given[1], known)
    return found.lock()

  def flag_type(self) -> str:
    return 'config'


def _get_config(name: str) -> Callable[..., Any]:
  """The function get_config that a name or a path stands for."""
  known = names()
  if name in known:
    return importlib.import_module(f'experiments.configs.{name}').get_config
  others = f'name one of {", ".join(known)}, or a Python file with get_config'
  if not name.endswith('.py') or not pathlib.Path(name).is_file():
    what = 'file' if name.endswith('.py') else 'config'
    raise ValueError(f'there is no such {what}; {others}')
  spec = importlib.util.spec_from_file_location('config', name)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  if not hasattr(module, 'get_config'):
    raise ValueError(f'it has no function get_config; {others}')
  return module.get_config


def _check_setting(name: str, known: list[str]) -> None:
  """Raises a ValueError where a name is not one of a setting."""
  if name in known:
    return
  inside = [other for other in known if other.startswith(f'{name}.')]
  if inside:
    raise ValueError(
      f'{name} is a group of settings; change one of them, such as '
      f'--config.{inside[0]}'
    )
  close = difflib.get_close_matches(name, known, 1)
  raise ValueError(
    f"the config has no setting '{name}'"
    + (f"; did you mean '{close[0]}'?" if close else '')
  )
