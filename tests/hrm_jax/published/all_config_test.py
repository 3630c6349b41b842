"""all_config.yaml: what is refused before it takes memory."""

import os

import pytest

from data_pipelines import files
from data_pipelines.errors import ConfigError, DataError
from hrm_jax.published import all_config


def test_aliases_that_multiply_are_not_followed(tmp_path):
  path = tmp_path / 'all_config.yaml'
  lines = ['a0: &a0 {x: 1}']
  for level in range(1, 40):
    lines.append(f'a{level}: &a{level} {{<<: [*a{level - 1}, *a{level - 1}]}}')
  path.write_text('\n'.join(lines))
  with pytest.raises(ConfigError, match='are not read; write their values'):
    all_config.read(path)


def test_files_of_any_claimed_size_are_refused_unread(tmp_path):
  path = tmp_path / 'all_config.yaml'
  path.touch()
  os.truncate(path, 2**40)
  with pytest.raises(DataError, match='at most 1,048,576 are read'):
    all_config.read(path)
  with pytest.raises(DataError, match='at most 1,073,741,824 are read'):
    files.read(path)
