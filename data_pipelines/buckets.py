"""Buckets of Google Cloud Storage, for what has a place there (extra `gcs`).

Paths are those of etils.epath on gcsfs, which orbax takes too. Beside Google's
credentials, the variables STORAGE_EMULATOR_HOST and TENSORSTORE_GCS_HTTP_URL
name another server.
"""

import contextlib
import functools
import logging
import os
import re
from typing import Any

# Before these are imported: not TensorFlow's files, which know no other server,
# and no requests about kinds of buckets that nothing here depends on.
os.environ.setdefault('EPATH_USE_TF', 'false')
os.environ.setdefault('GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT', 'false')

# isort: split
import aiohttp
import fsspec
import gcsfs.retry
from etils.epath import gpath
from google.api_core import exceptions
from google.auth.exceptions import GoogleAuthError
from google.cloud import storage
from google.cloud.storage.retry import DEFAULT_RETRY

from data_pipelines.errors import ConfigError, first_line

# Whoever used etils before may have made it look for TensorFlow.
with contextlib.suppress(AttributeError):
  gpath._is_tf_installed.cache_clear()

# What is raised here.
ERRORS: tuple[type[Exception], ...] = (
  OSError, aiohttp.ClientError, exceptions.GoogleAPIError, GoogleAuthError,
  gcsfs.retry.HttpError, gcsfs.retry.ChecksumError,
)  # fmt: skip

# Others write there too; and a server that is silent is asked again.
fsspec.config.conf.setdefault(
  'gcs', {'use_listings_cache': False, 'requests_timeout': 20}
)
# Both tell of each error, with its trace, before they raise it.
for _library in ('gcsfs', 'fsspec'):
  logging.getLogger(_library).setLevel(logging.CRITICAL)


class Address(gpath.PosixGPath):
  """A path such as gs://bucket/run, which is where it is from anywhere."""

  def absolute(self):
    return self

  resolve = absolute


def address(text: str) -> Address:
  """The path of a name in a bucket that is there.

  Raises:
    ConfigError: it names none, or the bucket cannot be used.
  """
  named = re.fullmatch('gs://([^/]+)/+[^/].*', text)
  if not named:
    raise ConfigError(
      f'{text} is no directory in a bucket; use gs://BUCKET/RUN'
    )
  bucket(named[1])
  return Address(text.rstrip('/'))


@functools.cache
def bucket(name: str) -> storage.Bucket:
  """A bucket, which is there.

  Raises:
    ConfigError: it is not, or cannot be used.
  """
  try:
    return storage.Client().get_bucket(
      name, timeout=10, retry=DEFAULT_RETRY.with_timeout(10)
    )
  except exceptions.NotFound:
    problem = 'there is no such bucket; create it, or name another'
  except exceptions.Forbidden as error:
    problem = (
      f'these credentials may not use it ({first_line(error)}); grant them '
      'roles/storage.admin on the bucket'
    )
  except GoogleAuthError as error:
    problem = (
      f'no credentials to use it with ({first_line(error)}); `gcloud auth '
      'application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS'
    )
  except ERRORS as error:
    problem = f'cannot be reached ({first_line(error)}); try again later'
  raise ConfigError(f'gs://{name}: {problem}')


def blob(path: Any) -> storage.Blob:
  """The object of a path."""
  _, _, name, *parts = path.parts
  return bucket(name).blob('/'.join(parts))


def names(directory: Any) -> list[str]:
  """The names of all objects below a directory, relative to it."""
  start = len(str(directory).removeprefix('gs://')) + 1
  return [name[start:] for name in _files().find(str(directory))]


def move(directory: Any, target: Any) -> None:
  """Moves all that is below a directory."""
  _files().mv(str(directory), str(target), recursive=True)


def _files() -> Any:
  return fsspec.filesystem('gcs')
