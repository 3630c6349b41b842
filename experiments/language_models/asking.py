"""Puzzles put to an endpoint of the OpenAI chat protocol, within a budget."""

import asyncio
import collections
import contextlib
import dataclasses
import email.utils
import itertools
import json
import random
import signal
import time
import urllib.parse
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from absl import logging

from data_pipelines.as_text import Prompt
from data_pipelines.errors import ConfigError, first_line
from data_pipelines.files import shown
from data_pipelines.progress import Progress
from experiments.language_models.journal import Journal, Tokens, Unit, hide

OPENAI = 'https://api.openai.com/v1'
# Seconds to connect; most of them before a request is sent again, by itself and
# where the endpoint asks for it.
_CONNECT, _LONGEST_WAIT, _LONGEST_ASKED = 10.0, 60.0, 3600.0
# Seconds that requests at work have to end, where one tells that none can.
_LAST = 5.0
# Tokens that an endpoint may add to a prompt, whose own are at most its bytes.
_ADDED = 256
# Statuses that say that what is behind did not answer: it may have charged.
_GATEWAYS = {502, 504, *range(520, 528)}
# Fields of a request that are not for a flag.
_OURS = {'messages', 'model', 'n', 'stream', 'tools'}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
  """How a model is asked, as the flags of `experiments.llm` have it."""

  model: str
  base_url: str = OPENAI
  extra: dict[str, Any] = dataclasses.field(default_factory=dict)
  attempts: int = 2
  max_tokens: int = 16_384
  concurrency: int = 4
  requests_per_minute: float | None = None
  timeout: float = 600.0
  retries: int = 6
  input_price: float | None = None
  output_price: float | None = None
  budget: float | None = None
  # Seconds before a request is sent again, which double each time.
  backoff: float = 1.0

  @property
  def longest(self) -> Any:
    """Most tokens of a reply; servers differ in the field's name."""
    usual = self.extra.get('max_tokens', self.max_tokens)
    return self.extra.get('max_completion_tokens', usual)

  def work(self) -> dict[str, Any]:
    """What a reply depends on."""
    names = ('model', 'base_url', 'extra', 'max_tokens')
    return {name: getattr(self, name) for name in names}

  def cost(self, tokens: Tokens) -> float | None:
    """Dollars for so many tokens; None where no price is known."""
    if self.input_price is None or self.output_price is None:
      return None
    prices = (self.input_price, self.output_price)
    return sum(x * price for x, price in zip(tokens, prices, strict=True)) / 1e6

  def check(self, key: str) -> None:
    """Raises a ConfigError where this cannot be, or would tell the key."""
    try:
      url = urllib.parse.urlsplit(self.base_url)
      is_url = bool(url.hostname) and url.scheme in ('http', 'https')
      is_url &= url.port != 0
    except ValueError:
      is_url = False
    work = json.dumps(self.work())
    for is_wrong, message in (
      ({*'@?#'} & {*self.base_url},
       '--base_url has a name, a password or a query, which would be kept; '
       'give the address alone, and the key in OPENAI_API_KEY'),
      (hide(work, key) != work,
       'a flag has the key of OPENAI_API_KEY in it; leave it away, it is sent '
       'all the same'),
      (not is_url,
       f'--base_url={self.base_url} is no address; give one such as '
       'http://localhost:8000/v1'),
      (not key and self.base_url == OPENAI,
       f'OPENAI_API_KEY is not set; export the key of {OPENAI}, or give '
       '--base_url of a server that needs none'),
      (not (key.isascii() and key.isprintable()) or {*' "\\'} & {*key},
       'OPENAI_API_KEY has characters that no key has; export it again'),
      (_OURS & self.extra.keys(),
       f'--extra cannot set any of {", ".join(sorted(_OURS))}; leave it away'),
      (type(self.longest) is not int or self.longest < 1,
       '--extra has a max_tokens that is no number; leave it away'),
      (self.budget is not None and self.cost(Tokens(0, 0)) is None,
       '--budget needs --input_price and --output_price, dollars for a '
       'million tokens; give both'),
    ):  # fmt: skip
      if is_wrong:
        raise ConfigError(message)


def client_library() -> ModuleType:
  """The package `openai`; a ConfigError where it is not installed."""
  try:
    import openai
  except ImportError as error:
    raise ConfigError(
      f'language models need the package openai ({first_line(error)}); '
      "`pip install -e '.[llm]'`"
    ) from None
  return openai


def ask(
  prompts: Sequence[Prompt], plan: Plan, journal: Journal, key: str
) -> str:
  """Asks what the journal does not have yet, and keeps the replies there.

  Returns:
    Why it ended before every reply was there; '' where it did not.

  Raises:
    ConfigError: the endpoint cannot be used so.
  """
  asking = _Asking(prompts, plan, journal, key)
  before = signal.getsignal(signal.SIGTERM)
  try:
    asyncio.run(asking.all())
  except asyncio.CancelledError:
    signal.signal(signal.SIGTERM, before)
    signal.raise_signal(signal.SIGTERM)
  finally:
    signal.signal(signal.SIGTERM, before)
  return asking.stopped


class _Retry(Exception):
  """A request that had no reply, and may have one another time."""

  def __init__(self, why: str, is_free: bool, seconds: float = 0.0):
    super().__init__(why)
    self.is_free, self.seconds = is_free, seconds


class _Asking:
  """The requests at work; one thread has them all."""

  def __init__(
    self, prompts: Sequence[Prompt], plan: Plan, journal: Journal, key: str
  ):
    self._plan, self._journal, self._key = plan, journal, key
    # All first attempts come before the second ones.
    pairs = itertools.product(range(1, plan.attempts + 1), prompts)
    self._left = collections.deque(
      (unit, prompt.text)
      for attempt, prompt in pairs
      if (unit := Unit(prompt.puzzle, prompt.test, attempt))
      not in journal.replies
    )
    self._progress = Progress('replies', len(self._left), 10.0)
    self._in_flight = self._in_a_row = 0
    self._given_up = list[str]()  # Why there was no reply.
    self._not_before = 0.0
    self.stopped = ''

  async def all(self) -> None:
    self._ended, self._openai = asyncio.Event(), client_library()
    # As asyncio does with Ctrl-C: nothing is raised amid a line of the journal.
    asyncio.get_running_loop().add_signal_handler(
      signal.SIGTERM, asyncio.current_task().cancel
    )
    async with self._openai.AsyncOpenAI(
      api_key=self._key or 'none',
      base_url=self._plan.base_url,
      timeout=self._openai.Timeout(None, connect=_CONNECT),
      max_retries=0,
    ) as self._client:
      workers = min(self._plan.concurrency, len(self._left))
      await asyncio.gather(*(self._work() for _ in range(workers)))
    if self._given_up and not self.stopped:
      count, last = len(self._given_up), self._given_up[-1]
      self.stopped = f'{count} requests without a reply (the last: {last})'

  async def _work(self) -> None:
    while self._left and not self.stopped:
      await self._answer(*self._left.popleft())

  async def _answer(self, unit: Unit, text: str) -> None:
    """Asks until there is a reply, or enough."""
    journal, plan, why, fatal = self._journal, self._plan, '', None
    at_most = Tokens(len(text.encode()) + _ADDED, plan.longest)
    for tries in range(plan.retries + 1):
      if not await self._may_go(at_most):
        return
      number, begun = journal.sent(unit, at_most), time.monotonic()
      self._in_flight += 1
      try:
        found, tokens = await self._request(text)
        seconds = round(time.monotonic() - begun, 3)
        journal.reply(number, unit, tokens, seconds=seconds, body=found)
        self._in_a_row = 0
        self._progress.add()
        return
      except _Retry as error:
        journal.failed(number, str(error), error.is_free)
        wait = plan.backoff * 2**tries * random.uniform(0.5, 1.0)
        wait = max(min(wait, _LONGEST_WAIT), error.seconds)
        why = f'{shown(unit.puzzle)}, attempt {unit.attempt}: {error}'
      except ConfigError as error:
        journal.failed(number, str(error), True)
        fatal = error
      finally:
        self._in_flight -= 1
      if fatal:
        self._stop(str(fatal))
        # Others that are charged may still have their reply.
        with contextlib.suppress(TimeoutError):
          async with asyncio.timeout(_LAST):
            while self._in_flight:
              await asyncio.sleep(0.02)
        raise fatal
      if tries < plan.retries and not self.stopped:
        logging.info('%s; again in %.1f s', why, wait)
        await self._pause(wait)
    self._given_up.append(why)
    self._in_a_row += 1
    if self._in_a_row >= max(3, plan.concurrency):
      self._stop(f'{self._in_a_row} requests in a row without a reply ({why})')

  async def _may_go(self, at_most: Tokens) -> bool:
    """Waits until a request may be sent; False where none may any more."""
    budget = self._plan.budget
    while not self.stopped:
      spent = zip(self._journal.total(), at_most, strict=True)
      cost = self._plan.cost(Tokens(*map(sum, spent)))
      if (wait := self._not_before - time.monotonic()) > 0:
        await self._pause(wait)
      elif budget is None or cost is None or cost <= budget:
        if rate := self._plan.requests_per_minute:
          self._not_before = time.monotonic() + 60 / rate
        return True
      elif self._in_flight:
        # They may cost less than they can.
        await self._pause(0.05)
      else:
        self._stop('the budget, which the next request may exceed')
    return False

  async def _pause(self, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
      await asyncio.wait_for(self._ended.wait(), seconds)

  def _stop(self, why: str) -> None:
    self.stopped = self.stopped or why
    self._ended.set()

  async def _request(self, text: str) -> tuple[dict[str, Any], Tokens | None]:
    """One request: its reply and tokens, None where these are not told.

    Raises:
      _Retry: it may have a reply another time.
      ConfigError: it never has.
    """
    plan, openai = self._plan, self._openai
    own: dict[str, Any] = {}
    if not {'max_tokens', 'max_completion_tokens'} & plan.extra.keys():
      own['max_completion_tokens'] = plan.max_tokens
    try:
      async with asyncio.timeout(plan.timeout):
        raw = await self._client.chat.completions.with_raw_response.create(
          model=plan.model,
          messages=[{'role': 'user', 'content': text}],
          extra_body=plan.extra,
          **own,
        )
    except openai.APIStatusError as error:
      return self._refused(error), Tokens(0, 0)
    except openai.APIConnectionError as error:
      cause = error.__cause__ or error
      never_sent = type(cause).__name__.startswith('Connect')
      why = f'cannot be reached ({self._quote(cause)})'
      if never_sent and not self._progress.done:
        raise ConfigError(
          f'{plan.base_url} {why}; start the server, or correct --base_url'
        ) from None
      raise _Retry(why, never_sent) from None
    except TimeoutError:
      raise _Retry(f'no reply within {plan.timeout:g} s', False) from None
    body = raw.http_response.text
    try:
      reply = json.loads(body)
      message, usage = reply['choices'][0]['message'], reply.get('usage') or {}
      said = [message.get(name) for name in ('content', 'refusal')]
      if not all(isinstance(x, str | None) for x in said):
        raise TypeError
      counts = [usage.get(f'{x}_tokens') for x in ('prompt', 'completion')]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
      raise _Retry(
        f'a reply that is none of the protocol: {self._quote(body)}', False
      ) from None
    told = all(type(count) is int and count >= 0 for count in counts)
    return reply, Tokens(*counts) if told else None

  def _refused(self, error: Any) -> dict[str, Any]:
    """What a status other than success comes to, a reply at best."""
    status, plan = error.status_code, self._plan
    message = error.body.get('message') if isinstance(error.body, dict) else ''
    said = f'HTTP {status}: {self._quote(message or error)}'
    if status == 402 or error.code == 'insufficient_quota':
      fix = 'the account has no credit left; add some'
    elif status in (408, 409, 429) or status >= 500:
      seconds = _retry_after(error.response.headers.get('retry-after', ''))
      if status == 429:
        # Meant for all requests.
        until = time.monotonic() + seconds
        self._not_before = max(self._not_before, until)
      raise _Retry(said, status not in _GATEWAYS, seconds)
    elif status in (401, 403):
      fix = 'export a key that it takes in OPENAI_API_KEY'
    elif status in (404, 405):
      fix = f'correct --model={plan.model}, or --base_url, mostly with /v1'
    elif error.code == 'content_filter' or self._journal.replies:
      # This prompt alone: others were taken.
      choice = {'finish_reason': 'error', 'message': {'refusal': said}}
      return {'choices': [choice]}
    else:
      fix = 'correct --model, --max_tokens or --extra'
    raise ConfigError(f'{plan.base_url} answers {said}; {fix}')

  def _quote(self, what: Any) -> str:
    """The beginning of what the other side said, without the key."""
    text = ' '.join(hide(str(what), self._key).split())
    return text[:200] or type(what).__name__


def _retry_after(text: str) -> float:
  """The seconds that a server asks for, as a number or a date; 0 for none."""
  with contextlib.suppress(ValueError):
    return min(max(0.0, float(text)), _LONGEST_ASKED)
  with contextlib.suppress(ValueError):
    date = email.utils.parsedate_to_datetime(text)
    return min(max(0.0, date.timestamp() - time.time()), _LONGEST_ASKED)
  return 0.0
