"""A run is kept where its user wants it, or refused before its first step."""

import os
import pathlib

import pytest

import hrm_jax
from data_pipelines.errors import ConfigError
from experiments import evaluate, predict
from hrm_jax.workdir import config as workdir_config
from tests import builders

_LONG = 'l' * 255
# Below them a run is kept; a name is part of a longer path.
_KEPT = (
  'plain', 'with space', 'a*b', 'q?x', 'h#x', 'p%20x', 'at@x', 'a:b', 'a;b',
  'a&b', '$HOME', 'quo\'te', 'dou"ble', '`x`', 'ü€', '模型', 'e\u0301', '{a,b}',
  '[', ']', '[]', '(1)', '-x', '--config', 'x,y', 'x=y', 'new\nline', '...',
  _LONG[:250], 'a/b/c/d/', './x/../y', '~x',
)  # fmt: skip
_REFUSED = ('run[1]', 'a[0-9]b', '[!a]', 'back\\slash', 'par[1]/x')


@pytest.mark.slow
@pytest.mark.parametrize('name', _KEPT)
def test_a_run_is_kept_whatever_its_directory(
  tmp_path, tiny_config, monkeypatch, name
):
  monkeypatch.chdir(tmp_path)
  workdir = pathlib.Path(os.path.join('.', name))
  tiny_config.update(total_steps=8, stop_at_step=4, checkpoint_every=0)
  builders.train(tiny_config, workdir)
  tiny_config.stop_at_step = 0
  builders.train(tiny_config, str(tmp_path / name))
  assert hrm_jax.load(workdir).step == 8
  assert evaluate.run(workdir).metrics
  predict.run(workdir, '123434122143432.', out='out')
  assert [p.name for p in pathlib.Path('out').iterdir()]


@pytest.mark.parametrize('name', _REFUSED)
def test_a_directory_that_loses_checkpoints_is_refused(
  tmp_path, tiny_config, name
):
  with pytest.raises(ConfigError, match='could not be read back; name another'):
    builders.train(tiny_config, tmp_path / name)
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  ('path', 'message'),
  [
    ('', "'' is no path of this machine"),
    ('gs://bucket', 'gs://bucket is no directory in a bucket'),
    (pathlib.Path('s3://bucket'), "'s3:/bucket' is no path of this machine"),
    ('/', '--workdir=/ is no directory of a run'),
  ],
)
def test_what_is_no_directory_is_refused(path, message):
  with pytest.raises(ConfigError, match=message):
    workdir_config.place(path)


def test_the_home_directory_is_where_it_is(monkeypatch, tmp_path):
  monkeypatch.setenv('HOME', str(tmp_path))
  assert workdir_config.place('~/runs/x') == tmp_path / 'runs' / 'x'
