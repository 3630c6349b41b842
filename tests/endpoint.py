"""A server of the OpenAI chat protocol, whose replies a test says."""

import contextlib
import dataclasses
import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any


@dataclasses.dataclass
class Endpoint:
  """What a server was asked; `reply` answers each request as `send` takes it.

  Attributes:
    url: its address.
    requests: the bodies of all requests.
    headers: the headers of all requests, names in small letters.
    times: when they came.
    most: greatest number of requests at a time.
  """

  reply: Callable[[dict[str, Any]], Any]
  url: str = ''
  requests: list[dict[str, Any]] = dataclasses.field(default_factory=list)
  headers: list[dict[str, str]] = dataclasses.field(default_factory=list)
  times: list[float] = dataclasses.field(default_factory=list)
  most: int = 0


@dataclasses.dataclass
class Status:
  """An answer that is no reply: a status, a body and headers."""

  status: int
  body: Any = dataclasses.field(default_factory=dict)
  headers: dict[str, str] = dataclasses.field(default_factory=dict)


def completion(content: Any, **changes: Any) -> dict[str, Any]:
  """The body of a reply, of 100 tokens read and 10 written."""
  return {
    'id': 'chatcmpl-1', 'object': 'chat.completion', 'model': 'served',
    'choices': [{
      'index': 0, 'finish_reason': 'stop',
      'message': {'role': 'assistant', 'content': content},
    }],
    'usage': {
      'prompt_tokens': 100, 'completion_tokens': 10, 'total_tokens': 110,
    },
  } | changes  # fmt: skip


@contextlib.contextmanager
def serving(reply: Callable[[dict[str, Any]], Any]) -> Iterator[Endpoint]:
  """Serves on a port of this machine: `reply` gives a text, which becomes a
  completion, or the body of one, a `Status`, bytes as they are, or None, which
  breaks the connection."""
  endpoint, lock, at_work = Endpoint(reply), threading.Lock(), 0

  class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
      nonlocal at_work
      body = json.loads(self.rfile.read(int(self.headers['Content-Length'])))
      with lock:
        at_work += 1
        endpoint.most = max(endpoint.most, at_work)
        endpoint.requests.append(body)
        endpoint.headers.append(
          {name.lower(): value for name, value in self.headers.items()}
        )
        endpoint.times.append(time.monotonic())
      try:
        found: Any = Status(404, {'error': {'message': 'no such path'}})
        if self.path == '/v1/chat/completions':
          found = endpoint.reply(body)
        if found is None:
          # The connection breaks.
          self.close_connection = True
          return
        if isinstance(found, str):
          found = completion(found)
        if not isinstance(found, Status):
          found = Status(200, found)
      finally:
        with lock:
          at_work -= 1
      data = found.body
      if not isinstance(data, bytes):
        data = json.dumps(data).encode()
      # Whoever was killed hears no answer.
      with contextlib.suppress(OSError):
        self.send_response(found.status)
        self.send_header('Content-Type', 'application/json')
        self.send_header('Content-Length', str(len(data)))
        for name, value in found.headers.items():
          self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
      pass

  with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler) as server:
    endpoint.url = f'http://127.0.0.1:{server.server_port}/v1'
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
      yield endpoint
    finally:
      server.shutdown()
      thread.join()
