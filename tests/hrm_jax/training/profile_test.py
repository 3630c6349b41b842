"""Which steps may be traced; what becomes of a trace that cannot be written."""

import pytest

from data_pipelines.errors import ConfigError
from hrm_jax.training.profile import Profile


def test_training_goes_on_where_a_trace_cannot_be_written(tmp_path, caplog):
  (tmp_path / 'file').touch()
  profile = Profile(2, 3, tmp_path / 'file' / 'traces')
  for step in (1, 3):
    profile.at(step)
  profile.close()
  (record,) = (r for r in caplog.records if r.levelname == 'WARNING')
  assert str(tmp_path / 'file' / 'traces') in record.message
  assert record.message.endswith('training goes on without a trace')


def test_all_steps_of_a_run_may_be_traced_and_no_others(tmp_path):
  # Step 3 is done, and step 9 is the last one.
  for first, last in ((4, 4), (4, 9), (9, 9)):
    Profile(first, last, tmp_path).check(3, 9)
  for first, last in ((3, 4), (9, 10), (10, 10)):
    with pytest.raises(ConfigError, match='takes the steps 4 to 9; name some'):
      Profile(first, last, tmp_path).check(3, 9)
