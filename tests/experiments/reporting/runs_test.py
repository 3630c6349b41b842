"""What is read of run directories, and which runs belong together."""

import json
import shutil

import jax
import numpy as np
import pytest

from data_pipelines.errors import ConfigError, Gone
from experiments.configs import base, sudoku
from experiments.reporting import runs
from hrm_jax.workdir import checkpoints

_DATA = 'train generated sudoku a; evaluate generated sudoku b'
_SCORES = {'eval/exact': 0.5, 'eval/accuracy': 0.75}


def _config(**changes):
  config = sudoku.get_config('demo')
  with config.unlocked():
    config.update_from_flattened_dict(changes)
  return config


def _error(function):
  with pytest.raises(ConfigError) as error:
    function()
  message = str(error.value)
  assert '\n' not in message
  return message


def test_what_a_real_run_wrote_is_read(trained_run):
  run = runs.read(trained_run)
  assert run.config.seed == 3
  assert run.system == 'direct prediction'
  assert run.scores.step == 4
  assert run.scores.rows == 10
  assert run.scores.halting == 'fixed'
  assert run.scores.data_version == run.data_version
  assert 0 <= run.scores.metrics['eval/exact'] <= 1
  assert [line['step'] for line in run.evaluations] == [2, 4]
  assert 'eval/exact' in run.evaluations[0]


def test_parameters_are_those_of_the_checkpoint(trained_run):
  run = runs.read(trained_run)
  saved = checkpoints.Checkpoints(run.directory)
  weights = saved._manager.restore(
    4, args=checkpoints.ocp.args.Composite(
      weights=checkpoints.ocp.args.StandardRestore()
    ),
  )['weights']  # fmt: skip
  saved.close()
  leaves = jax.tree.leaves(weights['params'])
  assert run.parameters == sum(np.size(leaf) for leaf in leaves) > 0


def test_a_run_without_checkpoint_has_no_number_of_parameters(write_run):
  run = runs.read(write_run('a', _config(), _DATA))
  assert run.parameters is None
  assert runs.parameters(runs.group([run])[0]) is None


def test_damaged_checkpoint_names_it(write_run):
  directory = write_run('a', _config(), _DATA)
  weights = directory / 'checkpoints' / '6' / 'weights'
  weights.mkdir(parents=True)
  (weights / '_METADATA').write_text('{')
  message = _error(lambda: runs.read(directory).parameters)
  assert str(weights) in message
  assert 'damaged' in message


@pytest.mark.parametrize(
  'kind, mlp_t, name',
  [
    ('hrm', None, 'HRM'),
    ('direct', None, 'direct prediction'),
    ('recurrent_transformer', None, 'recurrent transformer'),
    ('trm', False, 'TRM attention'),
    ('trm', True, 'TRM mlp_t'),
  ],
)
def test_systems_have_their_names(write_run, kind, mlp_t, name):
  config = base.get_config(kind)
  if mlp_t is not None:
    config.model.mlp_t = mlp_t
  assert runs.read(write_run('a', config, _DATA)).system == name


def test_a_config_that_is_older_than_the_kinds_is_an_hrm(write_run):
  directory = write_run('a', _config(), _DATA)
  path = directory / 'config.json'
  fields = json.loads(path.read_text())
  del fields['model']['kind']
  path.write_text(json.dumps(fields))
  new = write_run('b', _config(seed=1), _DATA)
  old, new = runs.read_all([directory, new])
  assert old.system == 'HRM'
  assert len(runs.group([old, new])) == 1


def test_a_config_with_the_kernel_of_a_whole_level_has_that_of_a_block(
  write_run,
):
  directory = write_run('a', _config(), _DATA)
  path = directory / 'config.json'
  fields = json.loads(path.read_text())
  fields['model']['fusion'] = 'level'
  path.write_text(json.dumps(fields))
  assert runs.read(directory).config.model.fusion == 'block'


def test_changes_are_those_of_the_system_alone(write_run):
  config = base.get_config('hrm')
  config.model.L_cycles = 3
  config.batch_size = 8
  run = runs.read(write_run('a', config, _DATA))
  assert run.changes == ['model.L_cycles=3']


@pytest.mark.parametrize(
  'changes, together',
  [
    ({}, True),
    ({'log_every': 7, 'checkpoint_every': 3, 'stop_at_step': 6}, True),
    ({'evaluation.batch_size': 7}, True),
    ({'data.evaluate': 'elsewhere'}, True),
    ({'batch_size': 64}, False),
    ({'data.num_aug': 10}, False),
    ({'model.hidden_size': 64}, False),
    ({'optimizer.learning_rate': 0.5}, False),
  ],
)
def test_runs_that_differ_in_their_seed_are_one_group(
  write_run, changes, together
):
  found = runs.read_all(
    [
      write_run('a', _config(), _DATA),
      write_run('b', _config(seed=1, **changes), _DATA),
    ]
  )
  assert len(runs.group(found)) == (1 if together else 2)


def test_runs_on_other_data_or_of_another_kind_are_other_groups(write_run):
  found = runs.read_all(
    [
      write_run('a', _config(), _DATA),
      write_run('b', _config(seed=1), _DATA + 'c'),
      write_run('c', base.get_config('trm'), _DATA),
    ]
  )
  groups = runs.group(found)
  assert len(groups) == 3
  assert runs.labels(groups) == ['HRM [a]', 'HRM [b]', 'TRM attention']


def test_labels_name_what_sets_groups_of_a_system_apart(write_run):
  found = runs.read_all(
    [
      write_run('a', _config(), _DATA),
      write_run('b', _config(batch_size=64), _DATA),
    ]
  )
  assert runs.labels(runs.group(found)) == [
    'HRM (batch_size=128)',
    'HRM (batch_size=64)',
  ]


def test_one_seed_twice_is_no_spread(write_run):
  first = write_run('a', _config(), _DATA)
  second = write_run('b', _config(log_every=3), _DATA)
  message = _error(lambda: runs.group(runs.read_all([first, second])))
  assert str(first) in message
  assert str(second) in message
  assert 'seed 0' in message
  message = _error(lambda: runs.read_all([first, str(first) + '/']))
  assert 'twice' in message


def test_the_newest_whole_scores_count(write_run, tmp_path):
  directory = write_run('a', _config(), _DATA, _SCORES, step=20)
  for step, name in (
    (9, 'step_9'),
    (20, 'step_20_act'),
    (30, 'step_30_100_augmentations'),
    (40, 'step_40_8_puzzles'),
    (50, 'step_50_act_100_augmentations_8_puzzles'),
  ):
    other = write_run(name, _config(), _DATA, _SCORES, step=step)
    (other / 'evaluation' / f'step_{step}').rename(
      directory / 'evaluation' / name
    )
  assert runs.read(directory).scores.path.parent.name == 'step_20'


def test_only_an_evaluation_by_another_halting_counts_too(write_run):
  directory = write_run(
    'a', _config(), _DATA, _SCORES, evaluation='step_{step}_act'
  )
  assert runs.read(directory).scores.step == 6


@pytest.mark.parametrize(
  'name, found',
  [(None, 'none'), ('step_6_4_puzzles', 'only partial ones')],
)
def test_without_whole_scores_it_says_to_evaluate(write_run, name, found):
  scores = _SCORES if name else None
  directory = write_run('a', _config(), _DATA, scores, evaluation=str(name))
  message = _error(lambda: runs.read(directory).scores)
  assert found in message
  assert f'python -m experiments.evaluate --workdir={directory}' in message


@pytest.mark.parametrize(
  'file, text, part',
  [
    ('config.json', None, 'no config.json'),
    ('config.json', '{"seed": ', 'not readable as JSON'),
    ('config.json', '[]', 'object of settings'),
    ('config.json', '{"seed": 0}', 'data_version'),
    ('config.json', '{"data_version": "a", "seed": "one"}', "seed='one'"),
    ('config.json', '{"data_version": "a", "model": 3}', 'model=3'),
    ('config.json', '{"data_version": "a", "sed": 1}', "'sed'"),
    ('metrics.jsonl', '{"step": 1}\n{"st\n{"step": 3}\n', 'line 2'),
    ('metrics.jsonl', '{"eval/exact": 1.0}\n', 'line 1'),
    ('metrics.jsonl', '{"step": 1, "a": ' + '[' * 10**5 + '\n', 'line 1'),
    ('config.json', '{"seed": ' + '[' * 10**5, 'not readable as JSON'),
    ('scores', '', 'not JSON'),
    ('scores', '{"step": 6', 'not JSON'),
    ('scores', '[]', 'JSON object'),
    ('scores', '{"step": 6}', 'leaks'),
    ('scores', '{"leaks": {"answers": 0}}', 'no record of leaks'),
  ],
)
def test_damaged_files_are_named_with_the_fix(write_run, file, text, part):
  evaluations = [{'step': 3, 'eval/exact': 0.5}]
  directory = write_run('a', _config(), _DATA, _SCORES, evaluations=evaluations)
  path = directory / file
  if file == 'scores':
    path = directory / 'evaluation' / 'step_6' / 'scores.json'
  if text is None:
    path.unlink()
  else:
    path.write_text(text)

  def read():
    run = runs.read(directory)
    return run.scores, run.evaluations

  message = _error(read)
  assert str(path) in message or message.startswith(f'{directory}: no ')
  assert part in message
  assert ';' in message


@pytest.mark.parametrize(
  'field, value',
  [
    ('step', 'six'),
    ('rows', 1.5),
    ('trained_on', None),
    ('eval/exact', '0.5'),
    ('eval/exact', True),
  ],
)
def test_wrong_values_in_scores_are_named(write_run, field, value):
  directory = write_run('a', _config(), _DATA, _SCORES)
  path = directory / 'evaluation' / 'step_6' / 'scores.json'
  path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
  message = _error(lambda: runs.read(directory).scores)
  assert str(path) in message
  assert f'{field} is {value!r}' in message
  assert 'experiments.evaluate' in message


def test_a_line_that_a_kill_cut_off_is_left_out(write_run):
  directory = write_run(
    'a', _config(), _DATA, evaluations=[{'step': 3, 'eval/exact': 0.5}]
  )
  with (directory / 'metrics.jsonl').open('a') as file:
    file.write('{"step": 6, "eval/ex')
  assert [line['step'] for line in runs.read(directory).evaluations] == [3]


def test_a_checkpoint_that_was_cleared_away_is_not_called_damaged(
  write_run, monkeypatch
):
  directory = write_run('a', _config(), _DATA)
  weights = directory / 'checkpoints' / '6' / 'weights'
  weights.mkdir(parents=True)

  def cleared(*_):
    shutil.rmtree(weights.parent)
    raise FileNotFoundError

  monkeypatch.setattr(runs.ocp.StandardCheckpointHandler, 'metadata', cleared)
  with pytest.raises(Gone, match='cleared away'):
    _ = runs.read(directory).parameters
  assert runs.read(directory).parameters is None
