"""CompressARC on the command line."""

import json

import pytest

from data_pipelines.errors import ConfigError
from experiments import compress
from hrm_jax.compressarc import solving
from hrm_jax.compressarc.solving import Plan
from hrm_jax.workdir import lock
from tests.run_fixtures import random_task


@pytest.mark.slow
def test_files_tell_what_was_found_and_how(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(solving, 'STEPS', 2)
  tasks = tmp_path / 'tasks'
  tasks.mkdir()
  for name, known in (('known', True), ('new', False)):
    contents = json.dumps(random_task(1, known=known))
    (tasks / f'{name}.json').write_text(contents)
  out = tmp_path / 'out'
  submission, plan = out / 'submission.json', Plan(num_steps=3)
  advance, fallback = solving.Group.advance, {}

  def kill(group):
    if group.found[0].steps:
      raise KeyboardInterrupt
    fallback.update(json.loads(submission.read_text()))
    advance(group)

  monkeypatch.setattr(solving, '_SAVE_EVERY', 0)
  with monkeypatch.context() as patch:
    patch.setattr(solving.Group, 'advance', kill)
    with pytest.raises(KeyboardInterrupt):
      compress.run(str(tasks), out, plan)
    submission.unlink()
    with pytest.raises(KeyboardInterrupt):
      compress.run(str(tasks), out, plan)
  # What was found before is there from the beginning.
  kept = json.loads(submission.read_text())
  assert list(kept) == list(fallback) == ['known', 'new']
  assert all(kept[name] != fallback[name] for name in kept)
  compress.run(str(tasks), out, plan)
  told = capsys.readouterr().out
  assert 'known, test 1 of 1, with a network trained on this task' in told
  assert 'attempt 1: ' in told and ' of 6 votes' in told
  assert '0/1' in told
  names = {path.name for path in out.iterdir()}
  assert names == {
    'submission.json', 'predictions.json', 'predictions.png', 'scores.json',
    'course_known.png', 'course_new.png', 'work', 'lock',
  }  # fmt: skip
  before = submission.read_bytes()
  assert list(json.loads(before)) == ['known', 'new']
  scores = json.loads((out / 'scores.json').read_text())
  assert scores['num_steps'] == 3 and scores['eval/pass@2/outputs'] == 0
  assert scores['tasks']['new']['steps'] == 3
  assert len(scores['tasks']['new']['kl']) == 18
  # Of two processes the second is refused.
  with lock.hold(out), pytest.raises(ConfigError, match='out is in use by'):
    compress.run(str(tasks), out, plan)
  # The same command once more has nothing to do.
  monkeypatch.setattr(solving, 'Group', _refuse(solving.Group))
  compress.run(str(tasks), out, plan)
  assert submission.read_bytes() == before


def _refuse(group):
  class Idle(group):
    def advance(self):
      raise AssertionError('it was done')

  return Idle
