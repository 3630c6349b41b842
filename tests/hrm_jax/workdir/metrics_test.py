"""Lines of metrics survive whatever happens to the process or the file."""

import json
import shutil
import subprocess
import sys

import pytest
from tensorboard.backend.event_processing import event_accumulator

from data_pipelines.errors import ConfigError
from hrm_jax.workdir.metrics import MetricsWriter


def _write(workdir, steps, step=0, lines=None):
  """Goes back to a step and writes more, as a start of a run does."""
  writer = MetricsWriter(workdir)
  kept = writer.forget_after(step, step if lines is None else lines)
  for step in steps:
    writer.write(step, {'loss': 1 / step})
  writer.close()
  return kept


def _steps(workdir):
  """Of the lines, and of what TensorBoard shows."""
  text = (workdir / 'metrics.jsonl').read_text()
  assert text.endswith('\n')
  lines = [json.loads(line) for line in text.splitlines()]
  assert all(line['loss'] == 1 / line['step'] for line in lines)
  found = event_accumulator.EventAccumulator(str(workdir / 'tensorboard'))
  shown = found.Reload().Scalars('loss')
  assert all(s.value == pytest.approx(1 / s.step) for s in shown)
  return [line['step'] for line in lines], [s.step for s in shown]


@pytest.fixture
def workdir(tmp_path):
  """With four lines."""
  assert _write(tmp_path, (1, 2, 3, 4)) == 0
  return tmp_path


def test_lines_and_events_come_again_once(workdir):
  assert _write(workdir, (3, 4, 5), step=2) == 2
  expected = [1, 2, 3, 4, 5]
  assert _steps(workdir) == (expected, expected)


def test_all_lines_stay(workdir):
  before = (workdir / 'metrics.jsonl').read_bytes()
  assert _write(workdir, (), step=4) == 4
  assert (workdir / 'metrics.jsonl').read_bytes() == before


def test_a_line_that_was_cut_off_comes_again(workdir, caplog):
  with (workdir / 'metrics.jsonl').open('a') as file:
    file.write('{"step": 5, "lo')
  assert _write(workdir, (4, 5), step=3) == 3
  assert '2 lines of' in caplog.text
  assert 'the last was cut off' in caplog.text
  assert _steps(workdir)[0] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
  'damage, kept',
  [
    # As a disk does that loses its last blocks.
    (lambda data: data[:40], [1]),
    # All of the last line but its end.
    (lambda data: data[:-1], [1, 2, 3]),
    (lambda data: data.replace(b'"step": 2', b'"st\0p": 2'), [1, 3, 4]),
    (lambda _: b'', []),
    # By hand, in the middle: the later ones come once nevertheless.
    (lambda data: b''.join(data.splitlines(True)[::3]), [1, 4]),
    (lambda data: data.replace(b'"step": 3', b'"step": 1e400'), [1, 2, 4]),
    (lambda data: data.replace(b'"step": 3', b'"step": 3.0'), [1, 2, 4]),
    # Not a number of 64 bits.
    (
      lambda data: data.replace(b'"step": 3', b'"step": %d' % 2**63),
      [1, 2, 4],
    ),
    (lambda data: data.replace(b'"step": 2', b'"step": -2'), [1, 3, 4]),
    (lambda data: data.replace(b'"loss": 0.5', b'[' * 10**5), [1, 3, 4]),
  ],
)
def test_lines_that_are_lost_are_told_and_none_comes_twice(
  workdir, caplog, damage, kept
):
  path = workdir / 'metrics.jsonl'
  path.write_bytes(damage(path.read_bytes()))
  assert _write(workdir, (5,), step=4) == len(kept)
  assert f'{4 - len(kept)} of the 4 lines' in caplog.text
  assert _steps(workdir)[0] == [*kept, 5]
  # The next start counts on those that are there.
  caplog.clear()
  count = len(kept) + 1
  assert _write(workdir, (6,), step=5, lines=count) == count
  assert 'missing' not in caplog.text
  assert _steps(workdir)[0] == [*kept, 5, 6]


def test_a_gap_is_told_by_its_steps(workdir, caplog):
  path = workdir / 'metrics.jsonl'
  lines = path.read_bytes().splitlines(keepends=True)
  path.write_bytes(lines[0] + lines[3])
  _write(workdir, (), step=4)
  assert 'the widest gap is from step 1 to 4' in caplog.text


def test_an_evaluation_of_the_step_gone_on_from_stays(workdir):
  writer = MetricsWriter(workdir)
  writer.write(4, {'eval/loss': 0.25})
  writer.write(5, {'loss': 0.2})
  writer.close()
  # The checkpoint was made before the evaluation, and knows of four lines.
  writer = MetricsWriter(workdir)
  assert writer.forget_after(4, 4) == 5
  assert writer.evaluation_of(4) == {'step': 4, 'eval/loss': 0.25}
  assert writer.evaluation_of(3) is None
  writer.close()


def test_other_processes_write_nothing(tmp_path):
  writer = MetricsWriter(tmp_path, active=False)
  assert writer.forget_after(7, 3) == 3
  writer.write(1, {'loss': 1.0})
  writer.close()
  assert not list(tmp_path.iterdir())


def test_a_full_disk_is_named(mount):
  disk = mount('size=2m')
  writer = MetricsWriter(disk)
  (disk / 'others').write_bytes(b'x' * (shutil.disk_usage(disk).free))
  with pytest.raises(ConfigError, match=r'(No space|full).*free some space'):
    for step in range(1, 200):
      writer.write(step, {'loss': 1 / step})
  writer.close()
  (disk / 'others').unlink()
  # Whatever came to the disk of the line that failed.
  _write(disk, (1, 2))
  assert _steps(disk)[0] == [1, 2]


@pytest.mark.slow
def test_tensorflow_is_not_needed():
  """It takes half a gigabyte and seconds, for a few bytes of events."""
  subprocess.run(
    [
      sys.executable, '-c',
      'import sys; from experiments import train; '
      'sys.exit("tensorflow" in sys.modules)',
    ],
    check=True,
  )  # fmt: skip
