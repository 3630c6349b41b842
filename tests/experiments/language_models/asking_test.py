"""Requests against a real server of the protocol on this machine."""

import email.utils
import logging
import socket
import threading
import time

import numpy as np
import pytest

from data_pipelines.as_text import Prompt
from data_pipelines.errors import ConfigError
from experiments.language_models import asking
from experiments.language_models.asking import Plan
from experiments.language_models.journal import Journal, Tokens, Unit
from tests.endpoint import Status, completion, serving

_KEY = 'sk-never-to-be-seen-1234567890'
_LIMITED = {'error': {'message': 'slow down', 'code': 'rate_limit_exceeded'}}


def _prompts(count):
  return [Prompt(f'p{i}', 0, f'text {i}', '01') for i in range(count)]


def _ask(directory, url, count=1, key=_KEY, **plan):
  """Asks; returns the journal and why it ended."""
  plan = Plan(**{'model': 'm', 'base_url': url, 'backoff': 0.001} | plan)
  plan.check(key)
  journal = Journal(directory, plan.work(), key)
  return journal, asking.ask(_prompts(count), plan, journal, key)


def _texts(endpoint):
  return [body['messages'][0]['content'] for body in endpoint.requests]


def _after(*failures):
  """Replies only after these failures."""
  left = list(failures)
  return lambda _: left.pop(0) if left else '<answer>1</answer>'


def test_each_attempt_is_asked_once_and_its_reply_kept(tmp_path):
  gate = threading.Barrier(3)

  def reply(body):
    gate.wait(30)  # Only three at a time get through.
    return f'of {body["messages"][0]["content"]}'

  with serving(reply) as endpoint:
    journal, stopped = _ask(
      tmp_path, endpoint.url, 6, concurrency=3, extra={'seed': 5}
    )
    assert (stopped, endpoint.most) == ('', 3)
    assert sorted(_texts(endpoint)) == sorted(
      f'text {i // 2}' for i in range(12)
    )
    # First attempts first.
    assert sorted(_texts(endpoint)[:6]) == [f'text {i}' for i in range(6)]
    for body in endpoint.requests:
      assert body['model'] == 'm' and body['seed'] == 5
      assert body['max_completion_tokens'] == 16_384
      assert len(body['messages']) == 1
    assert {h['authorization'] for h in endpoint.headers} == {f'Bearer {_KEY}'}
    assert journal.total() == Tokens(1200, 120)
    again, stopped = _ask(tmp_path, endpoint.url, 6, extra={'seed': 5})
    assert len(endpoint.requests) == 12
  assert (stopped, again.replies) == ('', journal.replies)
  for (puzzle, _, _), line in again.replies.items():
    content = line['body']['choices'][0]['message']['content']
    assert content == f'of text {puzzle[1:]}'
    assert line['seconds'] >= 0


@pytest.mark.parametrize(
  'failures',
  [
    [Status(500)],
    [Status(503, b'<html>'), Status(529), Status(408)],
    [Status(429, _LIMITED)] * 3,
    [Status(502), Status(504), Status(524)],
    [b'<html>not JSON'],
    [b''],
    [{'object': 'error'}, {'choices': []}, {'choices': [{'message': None}]}],
    [[1], completion(5), completion([{'text': 'x'}]), {'choices': 'abc'}],
  ],
)
def test_what_may_pass_is_asked_again(tmp_path, failures):
  with serving(_after(*failures)) as endpoint:
    journal, stopped = _ask(tmp_path, endpoint.url, attempts=1)
  assert not stopped
  assert len(endpoint.requests) == len(failures) + 1
  assert len(journal.replies) == 1
  lines = (tmp_path / 'replies.jsonl').read_text().splitlines()
  assert [*map(len, (lines, journal.tokens))] == [
    2 * len(failures) + 3, len(failures) + 1,
  ]  # fmt: skip
  # An error is not charged; what is no reply may be.
  free = isinstance(failures[0], Status) and failures[0].status != 502
  spent = 0 if free else len(failures) * 16_384
  assert journal.total().output == 10 + spent


@pytest.mark.parametrize('kind', ['seconds', 'date'])
def test_an_endpoint_is_left_alone_as_long_as_it_asks(tmp_path, kind):
  now = time.time()
  seconds = 1.0 if kind == 'seconds' else np.floor(now) + 2 - now
  value = '1' if kind == 'seconds' else email.utils.formatdate(now + 2)
  left = [Status(429, _LIMITED, {'Retry-After': value})]

  def reply(_):
    if left:
      return left.pop()
    time.sleep(0.3)
    return 'x'

  with serving(reply) as endpoint:
    _, stopped = _ask(
      tmp_path, endpoint.url, 4, attempts=1, concurrency=2, backoff=0.0
    )
  # Two at first; all others wait, those that were not limited too.
  first, _, third, *_ = endpoint.times
  assert (stopped, len(endpoint.times)) == ('', 5)
  assert third - first >= seconds - 0.2


def test_an_odd_retry_after_is_no_reason_to_fail(tmp_path):
  odd = [
    Status(429, _LIMITED, {'Retry-After': text})
    for text in ('soon', '-5', 'nan', 'Wed, 21 Oct 2015 07:28:00 GMT', '')
  ]
  with serving(_after(*odd)) as endpoint:
    assert not _ask(tmp_path, endpoint.url, attempts=1)[1]


def test_a_request_without_a_reply_in_time_is_sent_again(tmp_path):
  released = threading.Event()
  waits = [1]

  def reply(_):
    if waits:
      waits.pop()
      released.wait(30)
    return 'late'

  with serving(reply) as endpoint:
    journal, stopped = _ask(
      tmp_path, endpoint.url, attempts=1, timeout=0.5, max_tokens=70
    )
    released.set()
  assert (stopped, len(endpoint.requests)) == ('', 2)
  # It may have been charged.
  assert journal.total().output == 70 + 10


def test_requests_per_minute(tmp_path):
  with serving(lambda _: 'x') as endpoint:
    _ask(tmp_path, endpoint.url, 3, attempts=1, requests_per_minute=60)
  # They would all have been sent at once.
  assert len(endpoint.times) == 3
  assert endpoint.times[-1] - endpoint.times[0] >= 1.9


def test_an_endpoint_that_fails_on_and_on_is_given_up(tmp_path):
  with serving(lambda _: Status(500)) as endpoint:
    _, stopped = _ask(
      tmp_path, endpoint.url, 50, attempts=1, retries=1, concurrency=1
    )
    assert '3 requests in a row without a reply (p2, attempt 1: HTTP' in stopped
    assert len(endpoint.requests) == 6
    # These alone are asked again.
    endpoint.reply = lambda _: 'x'
    journal, stopped = _ask(tmp_path, endpoint.url, 50, attempts=1)
    assert (stopped, len(journal.replies)) == ('', 50)


def test_requests_that_fail_keep_no_other_from_its_reply(tmp_path):
  def reply(body):
    bad = int(body['messages'][0]['content'][-1]) % 2
    return Status(500) if bad else 'x'

  with serving(reply) as endpoint:
    journal, stopped = _ask(
      tmp_path, endpoint.url, 8, attempts=1, retries=2, concurrency=1
    )
    # Never three in a row.
    why = 'the last: p7, attempt 1: HTTP 500'
    assert stopped.startswith(f'4 requests without a reply ({why}')
    assert len(endpoint.requests) == 4 * 3 + 4
    assert {int(x.puzzle[1:]) for x in journal.replies} == {0, 2, 4, 6}


@pytest.mark.parametrize(
  'status, error, message',
  [
    (401, {'message': f'no key {_KEY}'}, 'HTTP 401: no key ***; export a key'),
    (403, {'message': 'not yours'}, 'HTTP 403: not yours; export a key'),
    (404, {'message': 'no such model'}, 'no such model; correct --model=m, or'),
    (402, {'message': 'Insufficient Balance'}, 'no credit left'),
    (429, {'message': 'x', 'code': 'insufficient_quota'}, 'no credit left'),
    (
      400,
      {'message': 'max_tokens is\ntoo large'},
      'is too large; correct --mod',
    ),
    (422, 'just text', 'correct --model, --max_tokens or --extra'),
  ],
)
def test_what_never_passes_ends_it_at_once(tmp_path, status, error, message):
  with serving(lambda _: Status(status, {'error': error})) as endpoint:
    with pytest.raises(ConfigError) as refused:
      _ask(tmp_path, endpoint.url, 9, concurrency=1, backoff=100.0)
    assert len(endpoint.requests) == 1
    text = str(refused.value)
    # Mended, it goes on, and has cost nothing.
    endpoint.reply = lambda _: 'x'
    journal, _ = _ask(tmp_path, endpoint.url, 1, model='right')
    assert journal.total() == Tokens(200, 20)
  assert message in text and '\n' not in text and _KEY not in text
  assert text.startswith(endpoint.url)


def test_an_end_leaves_time_for_replies_that_are_on_their_way(tmp_path):
  told = threading.Event()

  def reply(body):
    if body['messages'][0]['content'] == 'text 0':
      timer.start()
      return Status(401)
    told.wait(30)
    return 'x'

  with serving(reply) as endpoint:
    timer = threading.Timer(1.5, told.set)
    with pytest.raises(ConfigError, match='HTTP 401'):
      _ask(tmp_path, endpoint.url, 9, concurrency=3, backoff=100.0)
    timer.join()
    assert len(endpoint.requests) == 3
  work = Plan(model='m', base_url=endpoint.url).work()
  assert len(Journal(tmp_path, work, _KEY).replies) == 2


def test_an_endpoint_that_is_not_there(tmp_path):
  with socket.socket() as taken:
    taken.bind(('127.0.0.1', 0))
    url = f'http://127.0.0.1:{taken.getsockname()[1]}/v1'
    for _ in range(2):
      with pytest.raises(ConfigError, match='start the server, or corr'):
        _ask(tmp_path, url, 9, backoff=100.0)
  with pytest.raises(ConfigError, match='cannot be reached'):
    _ask(tmp_path, 'http://no-such-host.invalid/v1', 9, backoff=100.0)
  # Nothing was charged, and the right address may follow.
  with serving(lambda _: 'x') as endpoint:
    journal, stopped = _ask(tmp_path, endpoint.url, 2)
  assert (stopped, journal.total()) == ('', Tokens(400, 40))


def test_a_connection_that_breaks_is_made_again(tmp_path):
  replies = [None, '<answer>1</answer>', None]
  with serving(lambda _: replies.pop() if replies else 'x') as endpoint:
    journal, stopped = _ask(
      tmp_path, endpoint.url, 2, attempts=1, max_tokens=50, concurrency=1
    )
  assert (stopped, len(endpoint.requests)) == ('', 4)
  # They may have been charged.
  assert journal.total().output == 2 * 10 + 2 * 50


def test_one_prompt_that_is_refused_has_no_answer_and_is_asked_once(tmp_path):
  def reply(body):
    long = body['messages'][0]['content'] == 'text 1'
    return Status(400, {'error': {'message': 'too long'}}) if long else 'x'

  with serving(reply) as endpoint:
    for _ in range(2):
      journal, stopped = _ask(
        tmp_path, endpoint.url, 3, attempts=1, concurrency=1
      )
      assert (stopped, len(endpoint.requests)) == ('', 3)
  message = journal.replies[Unit('p1', 0, 1)]['body']['choices'][0]['message']
  assert message['refusal'] == 'HTTP 400: too long'
  assert journal.total() == Tokens(200, 20)


def test_a_budget_is_never_exceeded_whatever_is_in_flight(tmp_path):
  rng, lock = np.random.default_rng(0), threading.Lock()
  charged, at_work, worst = [], [], []
  most = 1000
  # A token written costs a dollar, one read nothing.
  prices = {'input_price': 0.0, 'output_price': 1e6, 'max_tokens': most}

  def reply(_):
    with lock:
      at_work.append(1)
      # What a server may charge for all so far.
      worst.append(sum(charged) + most * len(at_work))
    time.sleep(0.02)
    with lock:
      written = int(rng.integers(1, most + 1))
      charged.append(written)
      at_work.pop()
    usage = {'prompt_tokens': 7, 'completion_tokens': written}
    return completion('x', usage=usage)

  with serving(reply) as endpoint:
    for budget in (5500, 5500, 9000):
      before = len(endpoint.requests)
      journal, stopped = _ask(
        tmp_path, endpoint.url, 40, concurrency=8, budget=budget, **prices
      )
      assert 'the budget' in stopped
      assert sum(charged) == journal.total().output <= budget
      assert sum(charged) > budget - most
      assert max(worst) <= budget
    assert before < len(endpoint.requests) == len(journal.replies)


def test_a_budget_that_allows_nothing_asks_nothing(tmp_path):
  with serving(lambda _: 'x') as endpoint:
    _, stopped = _ask(
      tmp_path, endpoint.url, budget=0.01, input_price=1.0, output_price=1.0
    )
    assert ('the budget' in stopped, endpoint.requests) == (True, [])


@pytest.mark.parametrize('usage', [None, {}, {'prompt_tokens': -1}, 'x', True])
def test_tokens_that_are_not_told_count_as_many_as_may_be(tmp_path, usage):
  reply = completion('x', usage=usage)
  if usage == 'x':
    reply['usage'] = {'prompt_tokens': 'x', 'completion_tokens': True}
  elif usage is True:
    del reply['usage']
  with serving(lambda _: reply) as endpoint:
    journal, _ = _ask(tmp_path, endpoint.url, attempts=1, max_tokens=33)
  read, written = journal.total()
  assert read >= len('text 0') and written == 33


def test_fields_of_a_request_that_servers_name_otherwise(tmp_path):
  with serving(lambda _: completion('x', usage=None)) as endpoint:
    journal, _ = _ask(tmp_path, endpoint.url, extra={'max_tokens': 9})
  assert endpoint.requests[0]['max_tokens'] == 9
  assert 'max_completion_tokens' not in endpoint.requests[0]
  assert journal.total().output == 18


@pytest.mark.parametrize(
  'key, plan, message',
  [
    ('', {'base_url': asking.OPENAI}, 'OPENAI_API_KEY is not set'),
    ('a b' * 9, {}, 'characters that no key has'),
    ('sk-ключ-ключ', {}, 'characters that no key has'),
    ('sk-1234\n56789', {}, 'characters that no key has'),
    (_KEY, {'base_url': 'http://me:secret@host/v1'}, 'a name, a password'),
    (_KEY, {'base_url': 'http://host/v1?key=secret'}, 'a name, a password'),
    (_KEY, {'base_url': f'http://host/{_KEY}/v1'}, 'a flag has the key'),
    (_KEY, {'extra': {'key': [_KEY]}}, 'a flag has the key'),
    (_KEY, {'base_url': 'localhost:8000'}, 'is no address'),
    (_KEY, {'base_url': 'http://host:99999/v1'}, 'is no address'),
    (_KEY, {'base_url': 'http://[::1/v1'}, 'is no address'),
    (_KEY, {'base_url': ''}, 'is no address'),
    (_KEY, {'extra': {'stream': True}}, '--extra cannot set any of messages'),
    (_KEY, {'extra': {'max_tokens': '9'}}, 'a max_tokens that is no number'),
    (_KEY, {'budget': 1.0, 'input_price': 1.0}, '--budget needs --input_price'),
  ],
)
def test_what_cannot_be_asked_is_refused_at_the_door(key, plan, message):
  plan = Plan(**{'model': 'm', 'base_url': 'http://host/v1'} | plan)
  with pytest.raises(ConfigError, match=message) as refused:
    plan.check(key)
  text = str(refused.value)
  assert '\n' not in text and 'secret' not in text
  assert not key or key not in text


def test_a_missing_package_is_told_with_its_fix(monkeypatch):
  monkeypatch.setitem(__import__('sys').modules, 'openai', None)
  with pytest.raises(ConfigError, match=r"`pip install -e '\.\[llm\]'`"):
    asking.client_library()


def test_the_key_is_in_no_file_whatever_the_endpoint_says(tmp_path, caplog):
  said = f'{_KEY} "{_KEY}"\n'

  def reply(_):
    return failures.pop(0) if failures else completion(said, model=_KEY)

  failures = [
    Status(500, {'error': {'message': said}}), Status(503, said.encode()),
    said.encode(), {'error': said},
  ]  # fmt: skip
  # As with OPENAI_LOG=debug.
  caplog.set_level(logging.DEBUG)
  with serving(reply) as endpoint:
    journal, stopped = _ask(tmp_path, endpoint.url, 3)
    assert not stopped and len(endpoint.requests) == 10
  for path in tmp_path.rglob('*'):
    assert _KEY.encode() not in path.read_bytes()
  assert _KEY not in caplog.text and 'again in' in caplog.text
  assert _KEY not in str(journal.replies) and '***' in str(journal.replies)
