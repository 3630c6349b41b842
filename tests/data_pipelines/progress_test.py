"""Progress lines: what they say, and how seldom they come."""

from unittest import mock

import pytest

from data_pipelines import progress
from data_pipelines.progress import Progress


@pytest.fixture
def clock(monkeypatch):
  now = [100.0]
  monkeypatch.setattr(progress.time, 'monotonic', lambda: now[0])
  return now


def test_lines_come_at_most_every_so_many_seconds(clock):
  with mock.patch.object(progress.logging, 'info') as info:
    work = Progress('rows read', 4000, seconds=20)
    for seconds in (10, 11, 19, 2, 50):
      clock[0] += seconds
      work.add(500)
    lines = [str(call.args[1]) for call in info.call_args_list]
    assert len(lines) == 3
    # 92 s for 2500 rows, so 55 s for the last 1500.
    assert str(work) == 'rows read: 2,500 of 4,000, 0:00:55 left'
    clock[0] += 50
    work.add(1500)
    assert len(info.call_args_list) == 3  # What is done needs no line.


def test_without_a_total_no_time_left_is_told(clock):
  work = Progress('rows read', None)
  assert str(work) == 'rows read: 0'
  clock[0] += 5
  work.add(3)
  assert str(work) == 'rows read: 3'
