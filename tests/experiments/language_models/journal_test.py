"""The journal: what is kept is kept whole, and nothing else is trusted."""

import json

import pytest

from data_pipelines.errors import ConfigError, DataError
from experiments.language_models.journal import Journal, Tokens, Unit

_WORK = {'model': 'm', 'extra': {'seed': 1}}


def _written(directory):
  """A journal with a reply, a failure of each kind and one in flight."""
  journal = Journal(directory, _WORK, '')
  for number, end in enumerate(('reply', 'free', 'charged', '')):
    unit = Unit(f'p{number}', 0, 1)
    assert journal.sent(unit, Tokens(10, 50)) == number
    if end == 'reply':
      journal.reply(number, unit, Tokens(3, 4), body={'text': 'ü\n'})
    elif end:
      journal.failed(number, 'HTTP 500', end == 'free')
  return journal


def test_what_was_in_flight_counts_at_its_most(tmp_path):
  journal = _written(tmp_path)
  assert journal.total() == Tokens(3 + 0 + 10 + 10, 4 + 0 + 50 + 50)
  again = Journal(tmp_path, _WORK, '')
  assert again.tokens == journal.tokens
  assert again.replies == journal.replies
  assert [*again.replies] == [Unit('p0', 0, 1)]
  assert again.replies[Unit('p0', 0, 1)]['body'] == {'text': 'ü\n'}


def test_cut_anywhere_it_is_a_beginning_of_what_it_was(tmp_path):
  (tmp_path / 'whole').mkdir()
  whole = _written(tmp_path / 'whole')
  data = (tmp_path / 'whole' / 'replies.jsonl').read_bytes()
  first = data.index(b'\n') + 1
  path = tmp_path / 'replies.jsonl'
  for length in (*range(first, len(data), 17), len(data)):
    path.write_bytes(data[:length])
    journal = Journal(tmp_path, _WORK, '')
    kept = data[: data[:length].rindex(b'\n') + 1]
    assert path.read_bytes() == kept
    assert journal.replies.items() <= whole.replies.items()
    # It goes on after that.
    number = journal.sent(Unit('new', 0, 1), Tokens(1, 1))
    journal.reply(number, Unit('new', 0, 1), None)
    assert Unit('new', 0, 1) in Journal(tmp_path, _WORK, '').replies


@pytest.mark.parametrize(
  'line, text',
  [
    (1, ''), (1, '{}'), (1, '5'), (1, '{"work": 5}'), (2, '{"sent": 1'),
    (3, '[]'), (3, '{"reply": 9, "tokens": [1, 1]}'), (4, ''),
    (3, '{"reply": 0, "tokens": [1, 1]}'), (2, '{"sent": 0, "tokens": 5}'),
  ],
)  # fmt: skip
def test_a_damaged_line_is_named(tmp_path, line, text):
  _written(tmp_path)
  path = tmp_path / 'replies.jsonl'
  lines = path.read_text().split('\n')
  lines[line - 1] = text
  path.write_text('\n'.join(lines))
  with pytest.raises(DataError, match=f'line {line} is no line of this file'):
    Journal(tmp_path, _WORK, '')


@pytest.mark.parametrize('change', [{'model': 'n'}, {'extra': {'seed': 2}}])
def test_other_work_is_refused_and_left_as_it_is(tmp_path, change):
  _written(tmp_path)
  before = (tmp_path / 'replies.jsonl').read_bytes()
  (name,) = change
  with pytest.raises(ConfigError, match=f'other work, whose {name} is'):
    Journal(tmp_path, _WORK | change, '')
  assert (tmp_path / 'replies.jsonl').read_bytes() == before


def test_lines_are_json_and_tell_who_was_asked(tmp_path):
  _written(tmp_path)
  text = (tmp_path / 'replies.jsonl').read_text()
  lines = [json.loads(line) for line in text.splitlines()]
  assert lines[0] == {'work': _WORK}
  assert [next(iter(line)) for line in lines[1:]] == [
    'sent', 'reply', 'sent', 'failed', 'sent', 'failed', 'sent',
  ]  # fmt: skip
  assert lines[2]['puzzle'] == 'p0' and lines[2]['tokens'] == [3, 4]


def test_a_full_disk_is_told(mount):
  disk = mount('size=16k')
  journal = Journal(disk, _WORK, '')
  with pytest.raises(ConfigError, match=r'replies\.jsonl cannot be written'):
    for number in range(100):
      journal.sent(Unit('p' * 200, number, 1), Tokens(1, 1))
  # What was kept is read.
  kept = Journal(disk, _WORK, '').tokens
  assert 10 < len(kept) <= len(journal.tokens) + 1
