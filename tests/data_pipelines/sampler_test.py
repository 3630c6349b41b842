"""The order of examples: by (seed, position), grouped as published."""

import itertools

import numpy as np
import pytest

from data_pipelines import sampler

_MEMBERS = np.array([3, 1, 4, 2, 5])
_VARIANTS = np.array([1, 7, 3, 2, 50])


def _take(order, count, position=0):
  return list(itertools.islice(order.batches(position), count))


def _make(batch_size=4, members=_MEMBERS, variants=_VARIANTS, seed=0):
  return sampler.GroupSampler(members, variants, batch_size, seed)


@pytest.fixture
def short_runs(monkeypatch):
  monkeypatch.setattr(sampler, '_MIN_RUN', 6)


def test_batches_depend_on_their_position_alone(short_runs):
  order = _make()
  per_run = order.batches_per_run
  straight = _take(order, 4 * per_run)
  for position in (1, per_run - 1, per_run, per_run + 1, 3 * per_run + 2):
    for ours, expected in zip(
      _take(order, 5, position), straight[position:], strict=False
    ):
      for a, b in zip(ours, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_seeds_and_runs_differ(short_runs):
  order = _make()
  first, second = _take(order, 2)
  (of_next_run,) = _take(order, 1, order.batches_per_run)
  (of_other_seed,) = _take(_make(seed=1), 1)
  noises = [first.noise, second.noise, of_next_run.noise, of_other_seed.noise]
  for a, b in itertools.combinations(noises, 2):
    assert not np.isin(a, b).any()


@pytest.mark.parametrize('batch_size', [1, 4, 7, 15, 40])
def test_a_pass_shows_each_group_once_and_cuts_the_one_that_does_not_fit(
  batch_size,
):
  """Follows the stream group by group, as the published loader would."""
  stream = _take(_make(batch_size), 60)
  left_in_pass = set()
  for batch in stream:
    assert all(len(array) == batch_size for array in batch)
    changes = np.flatnonzero(np.diff(batch.group)) + 1
    parts = np.split(np.arange(batch_size), changes)
    for part in parts:
      if not left_in_pass:
        left_in_pass = set(range(len(_MEMBERS)))
      # Two passes may meet inside one stretch of the same group.
      group = int(batch.group[part[0]])
      size = _MEMBERS[group]
      for begin in range(0, len(part), size):
        if not left_in_pass:
          left_in_pass = set(range(len(_MEMBERS)))
        assert group in left_in_pass
        left_in_pass.remove(group)
        one = part[begin : begin + size]
        members = batch.member[one]
        assert len(set(members)) == len(members)
        assert members.max() < size
        assert len(set(batch.variant[one])) == 1
        assert batch.variant[one[0]] < _VARIANTS[group]
        # Only the last group of a batch is cut.
        assert len(members) == size or one[-1] == batch_size - 1


def test_variants_and_members_are_uniform():
  order = _make(batch_size=1, members=np.array([4]), variants=np.array([10]))
  batches = _take(order, 8000)
  for field, values in (('variant', 10), ('member', 4)):
    drawn = np.concatenate([getattr(batch, field) for batch in batches])
    expected = len(drawn) / values
    counts = np.bincount(drawn, minlength=values)
    # Chi-square with `values` - 1 degrees: mean values, far below this.
    assert ((counts - expected) ** 2 / expected).sum() < 40


def test_single_members_make_runs_of_whole_passes(monkeypatch):
  monkeypatch.setattr(sampler, '_MIN_RUN', 10)
  ones = np.ones(12, int)
  order = _make(batch_size=8, members=ones, variants=ones)
  assert order.batches_per_run == 10  # Seven passes of 12 are 10.5 batches.
  groups = np.concatenate([b.group for b in _take(order, 9)])
  for number in range(6):
    assert sorted(groups[12 * number : 12 * (number + 1)]) == list(range(12))


def test_processes_share_a_batch():
  (whole,) = _take(_make(batch_size=8), 1)
  halves = [whole.rows(slice(0, 4)), whole.rows(slice(4, 8))]
  for ours, expected in zip(zip(*halves, strict=True), whole, strict=True):
    np.testing.assert_array_equal(np.concatenate(ours), expected)


def test_a_far_position_is_reached():
  assert len(_take(_make(), 1, 10**9)) == 1
