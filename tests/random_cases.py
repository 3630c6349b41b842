"""Drawn cases of property tests: the same in each run, many or few of them."""

import datetime

import hypothesis
import pytest


def cases(count, seconds=None):
  """Draws so many cases, of which each may take so long; None: any time."""
  return hypothesis.settings(
    max_examples=count,
    derandomize=True,
    database=None,
    deadline=seconds and datetime.timedelta(seconds=seconds),
    suppress_health_check=list(hypothesis.HealthCheck),
    phases=[hypothesis.Phase.generate],
  )


def few_or_all(few, everything=2000):
  """The argument `count`: few in `make test`, all in `make test-slow`."""
  return pytest.mark.parametrize(
    'count', [few, pytest.param(everything, marks=pytest.mark.slow)]
  )
