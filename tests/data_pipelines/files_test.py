"""A file is whole, or as it was before; and is read up to a size."""

import json

import pytest

from data_pipelines import files
from data_pipelines.errors import DataError


def test_json_file_is_whole_or_as_it_was(tmp_path):
  path = tmp_path / 'submission.json'
  files.write_json(path, {'a': [1]})
  assert json.loads(path.read_text()) == {'a': [1]}
  with pytest.raises(TypeError):
    files.write_json(path, {'a': [1, object()]})
  assert json.loads(path.read_text()) == {'a': [1]}


def test_a_failure_leaves_nothing_behind(tmp_path):
  path = tmp_path / 'picture.png'
  path.write_text('old')
  with pytest.raises(KeyboardInterrupt), files.replacing(path) as part:
    part.write_text('half')
    raise KeyboardInterrupt
  assert [file.name for file in tmp_path.iterdir()] == ['picture.png']
  assert path.read_text() == 'old'


def test_a_file_has_as_many_bytes_as_are_read_or_fewer(tmp_path):
  path = tmp_path / 'file'
  path.write_bytes(b'123')
  assert files.read(path, at_most=3) == b'123'
  with pytest.raises(DataError, match='has 3 bytes, at most 2 are read'):
    files.read(path, at_most=2)
