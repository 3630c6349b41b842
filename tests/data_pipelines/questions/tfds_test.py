"""Sudokus and mazes as TFDS prepares and reads them."""

import numpy as np
import tensorflow_datasets as tfds

from data_pipelines.questions import loading as questions
from data_pipelines.questions import tfds as question_tfds


def test_published_sets_have_a_config_each():
  assert set(question_tfds.QuestionPuzzles.builder_configs) == {
    'sudoku_extreme_1k',
    'sudoku_extreme_full',
    'maze_30x30_hard_1k',
  }


def test_puzzles_read_back_as_they_were_loaded(tmp_path, monkeypatch):
  monkeypatch.setenv('HRM_JAX_CACHE', str(tmp_path / 'cache'))
  spec = 'maze:size=5x5:path=3:count=6:tests=4'
  config = question_tfds.QuestionConfig(name='small', spec=spec)
  builder = question_tfds.QuestionPuzzles(
    config=config, data_dir=tmp_path / 'tfds'
  )
  builder.download_and_prepare()
  for split, count in (('train', 6), ('test', 4)):
    expected = questions.load_questions(spec, split, seed=0)
    assert len(expected.rows) == count
    assert builder.info.metadata[split] == expected.version
    found = list(tfds.as_numpy(builder.as_dataset(split=split)))
    for name in ('question', 'answer'):
      np.testing.assert_array_equal(
        np.stack([example[name] for example in found]),
        getattr(expected, f'{name}s'),
        strict=True,
      )
    assert [example['row'] for example in found] == expected.rows.tolist()
