"""identifiers.json in both forms, and files that are none."""

import json

import pytest

from data_pipelines import files
from data_pipelines.arc import encoding
from data_pipelines.errors import DataError
from data_pipelines.published import identifiers

HRM = [
  '<blank>',
  '00576224',
  '00576224_t3_0987654321',
  'a_b_t0_0213456789',
  # Tasks' own names, though they look otherwise.
  'x_t8_0123456789',
  'y_t1_0123456788',
  'ünï "x"',
]
COUNT = len(HRM)
TRM = [
  '<blank>',
  '00576224',
  '00576224|||t3|||0987654321',
  'a_b|||t0|||0213456789',
  'x_t8_0123456789',
  'y_t1_0123456788',
  'ünï "x"',
]


def _read(path, count=COUNT):
  return identifiers.read(path, count, 'the table has')


@pytest.mark.parametrize('names', [HRM, TRM])
def test_both_forms_are_read_as_hrms(names, tmp_path):
  path = tmp_path / 'identifiers.json'
  path.write_text(json.dumps(names))
  assert _read(path) == HRM
  assert _read(path, None) == HRM


@pytest.mark.parametrize('variant, expected', [('hrm', HRM), ('trm', TRM)])
@pytest.mark.parametrize('names', [HRM, TRM])
def test_written_in_the_form_of_either(names, variant, expected, tmp_path):
  path = tmp_path / 'identifiers.json'
  identifiers.write(path, names, variant)
  assert json.loads(path.read_text()) == expected
  assert _read(path) == HRM
  assert list(tmp_path.iterdir()) == [path]


def test_every_augmentation_there_and_back(tmp_path):
  path = tmp_path / 'identifiers.json'
  names = ['<blank>', 'task'] + [
    encoding.augmentation_name('task', transform, [0, *order])
    for transform in range(8)
    for order in ([9, 8, 7, 6, 5, 4, 3, 2, 1], [2, 3, 4, 5, 6, 7, 8, 9, 1])
  ]
  for variant in ('hrm', 'trm'):
    identifiers.write(path, names, variant)
    assert _read(path, len(names)) == names


@pytest.mark.parametrize(
  'text, message',
  [
    (None, 'cannot be read'),
    ('{"a": 1}', 'must be a list of names'),
    ('"text"', 'must be a list of names'),
    ('["a", "b", 1]', 'must be a list of names'),
    ('["a", "b", ["c"]]', 'must be a list of names'),
    ('["a", "b"]', 'has 2 names, the table has 3; both must be of the same'),
    ('["a", "b", "c", "d"]', 'has 4 names, the table has 3'),
    ('["a", "b", "a"]', "name 'a' is there twice"),
    (
      '["a", "a_t1_0213456789", "a|||t1|||0213456789"]',
      "name 'a_t1_0213456789' is there twice",
    ),
    ('["a", "b", "\\ud800"]', 'is not proper Unicode'),
    ('["a", "b"', 'not JSON'),
    ('', 'not JSON'),
  ],
)
def test_files_that_are_none(text, message, tmp_path):
  path = tmp_path / 'identifiers.json'
  if text is not None:
    path.write_text(text)
  with pytest.raises(DataError, match=message) as error:
    _read(path, 3)
  assert files.shown(path) in str(error.value)
  assert '\n' not in str(error.value)


def test_twice_is_refused_whatever_the_count(tmp_path):
  path = tmp_path / 'identifiers.json'
  path.write_text('["a", "a"]')
  with pytest.raises(DataError, match="'a' is there twice"):
    _read(path, None)
