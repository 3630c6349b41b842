"""A workdir belongs to one run, and says which settings are not its own."""

import dataclasses
import json
import types

import pytest

from data_pipelines.errors import ConfigError
from data_pipelines.leaks import Verdict
from hrm_jax.settings import DataSettings, Settings
from hrm_jax.workdir import config

SETTINGS = Settings(data=DataSettings(train='ä'))


def _claim(workdir, settings=SETTINGS, version='v1'):
  puzzles = types.SimpleNamespace(version=version, recognise=lambda _: None)
  config.claim(workdir, settings, puzzles, Verdict([], (), False))


def _train_a_little(workdir):
  (workdir / 'metrics.jsonl').write_text('{"step": 1}\n')


def test_a_new_workdir_is_claimed(tmp_path):
  workdir = tmp_path / 'a' / 'b'
  with pytest.raises(ConfigError, match=r'no config\.json'):
    config.read(workdir)
  _claim(workdir)
  settings, facts = config.read(workdir)
  assert settings == SETTINGS
  assert facts['data_version'] == 'v1'
  assert facts['leaks']['answers'] == 0
  assert [path.name for path in workdir.iterdir()] == ['config.json']


def test_the_same_settings_go_on(tmp_path):
  # JSON knows no tuples.
  settings = SETTINGS.replace({'data.known_leaks': ('a->b',)})
  _claim(tmp_path, settings)
  _train_a_little(tmp_path)
  before = (tmp_path / 'config.json').read_bytes()
  _claim(tmp_path, settings)
  assert (tmp_path / 'config.json').read_bytes() == before
  assert config.read(tmp_path)[0] == settings


def test_data_that_older_code_named_otherwise_go_on(tmp_path):
  _claim(tmp_path, version='sampled')
  _train_a_little(tmp_path)
  before = (tmp_path / 'config.json').read_bytes()
  puzzles = types.SimpleNamespace(version='whole')
  puzzles.recognise = lambda recorded: setattr(puzzles, 'version', recorded)
  config.claim(tmp_path, SETTINGS, puzzles, Verdict([], (), False))
  assert (tmp_path / 'config.json').read_bytes() == before


@pytest.mark.parametrize(
  'change, named',
  [
    ({'seed': 1}, ['seed (0 there, 1 here)']),
    (
      {'model.hidden_size': 64, 'act.halting': 'none', 'log_every': 7},
      ['model.hidden_size (512 there, 64 here)', "act.halting ('q_learning'"],
    ),
    (None, ["data_version ('v1' there, 'v2' here)"]),
  ],
)
def test_other_settings_are_listed_and_nothing_is_written(
  tmp_path, change, named
):
  _claim(tmp_path)
  _train_a_little(tmp_path)
  before = (tmp_path / 'config.json').read_bytes()
  with pytest.raises(ConfigError) as error:
    if change is None:
      _claim(tmp_path, version='v2')
    else:
      _claim(tmp_path, SETTINGS.replace(change))
  for text in named:
    assert text in str(error.value)
  # Settings that are the same or free are not listed.
  assert str(error.value).count(' there, ') == len(named)
  assert (tmp_path / 'config.json').read_bytes() == before
  names = {path.name for path in tmp_path.iterdir()}
  assert names == {'config.json', 'metrics.jsonl'}


def test_a_first_start_that_failed_blocks_nothing(tmp_path):
  """Out of memory, say: no step was done, and other settings may be tried."""
  _claim(tmp_path)
  (tmp_path / 'checkpoints').mkdir()
  _claim(tmp_path, SETTINGS.replace({'seed': 1}))
  assert config.read(tmp_path)[0].seed == 1


def test_results_without_their_settings_are_not_gone_on_with(tmp_path):
  (tmp_path / 'checkpoints' / '5').mkdir(parents=True)
  with pytest.raises(ConfigError, match=r'not its config\.json'):
    _claim(tmp_path)
  assert not (tmp_path / 'config.json').exists()


def _without(workdir, group, name):
  """Takes a setting out of config.json, as if it had been added since."""
  path = workdir / 'config.json'
  fields = json.loads(path.read_text())
  del fields[group][name]
  path.write_text(json.dumps(fields))


def test_a_setting_that_is_newer_than_the_run_has_its_default(tmp_path):
  _claim(tmp_path)
  _train_a_little(tmp_path)
  _without(tmp_path, 'model', 'gradient')
  assert config.read(tmp_path)[0] == SETTINGS
  _claim(tmp_path)
  _without(tmp_path, 'model', 'gradient')
  with pytest.raises(
    ConfigError, match=r"model\.gradient \('one_step' there, 'full' here\)"
  ):
    _claim(tmp_path, SETTINGS.replace({'model.gradient': 'full'}))


@pytest.mark.parametrize(
  'changes', [{'log_every': 20}, {'evaluation.batch_size': 7}]
)
def test_free_settings_may_differ(tmp_path, changes):
  _claim(tmp_path)
  _train_a_little(tmp_path)
  other = SETTINGS.replace(changes)
  _claim(tmp_path, other)
  # The file tells how the run goes on.
  assert config.read(tmp_path)[0] == other


def test_a_free_name_frees_no_longer_names():
  before, now = {'log': 1, 'log.dir': 1, 'logarithm': 1}, {'log': 2}
  assert config.differences(before, now, ('log',)) == (
    'logarithm (1 there, None here)'
  )


@pytest.mark.parametrize(
  'content',
  [
    b'',
    b'{"seed": 0',
    b'\xff\xfe{',
    b'[1]',
    b'null',
  ],
)
def test_a_damaged_config_is_named(tmp_path, content):
  (tmp_path / 'config.json').write_bytes(content)
  with pytest.raises(ConfigError, match=r'config\.json'):
    _claim(tmp_path)
  with pytest.raises(ConfigError, match=r'config\.json'):
    config.read(tmp_path)
  assert (tmp_path / 'config.json').read_bytes() == content


@pytest.mark.parametrize(
  'changes, message',
  [
    (
      {'act': {'halt_max_steps': '8'}},
      "act.halt_max_steps='8' must be a whole",
    ),
    ({'model': {'hidden_size': 2.5}}, 'model.hidden_size=2.5 must be a whole'),
    ({'model': {'kind': ['hrm']}}, r"model.kind=\['hrm'\] is not known"),
    ({'optimizer': {'b1': None}}, 'optimizer.b1=None must be a finite number'),
    ({'seed': True}, 'seed=True must be a whole number'),
    ({'data': {'allow_leaks': 1}}, 'data.allow_leaks=1 must be true or false'),
    ({'data': {'known_leaks': 'a'}}, "data.known_leaks='a' must be a list of"),
    ({'loss': ['softmax']}, r"loss=\['softmax'\] is unknown; use one of"),
    ({'evaluation': 3}, 'evaluation=3 must be an object'),
    ({'surprise': 3}, "setting 'surprise' is not known; use the version"),
  ],
)
def test_values_of_another_type_are_named_with_file_and_key(
  tmp_path, changes, message
):
  (tmp_path / 'config.json').write_text(json.dumps(changes))
  with pytest.raises(ConfigError, match=f'config.json: {message}') as error:
    config.read(tmp_path)
  assert '\n' not in str(error.value)


def test_a_workdir_that_cannot_be_made_is_named(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(ConfigError, match=r'--workdir=.*file/run'):
    _claim(tmp_path / 'file' / 'run')


def test_config_is_readable_json(tmp_path):
  _claim(tmp_path)
  text = (tmp_path / 'config.json').read_text()
  fields = json.loads(text)
  assert fields['model'] == {
    'kind': 'hrm',
    **dataclasses.asdict(SETTINGS.model),
  }
  assert text.count('\n') > len(fields)
