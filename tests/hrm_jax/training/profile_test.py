"""What becomes of a trace that cannot be written."""

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
