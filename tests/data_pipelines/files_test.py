"""A file is whole, or as it was before."""

import json

import pytest

from data_pipelines import files


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
