"""The order of training examples, replayed group by group."""

import itertools

import numpy as np
import pytest
from scipy import stats

from data_pipelines import sampler

# Groups of any size, one larger than the batch; 37 members in all.
MEMBERS = np.array([3, 1, 4, 2, 11, 5, 1, 7, 3])
VARIANTS = np.array([1, 2, 3, 4, 5, 6, 7, 8, 9])


@pytest.fixture(params=[4, 4096])
def short_runs(request, monkeypatch):
  """Runs of at least nine batches, passes in one chunk or in several."""
  monkeypatch.setattr(sampler, '_MIN_RUN', 9)
  monkeypatch.setattr(sampler, '_CHUNK', request.param)


def make(members=MEMBERS, variants=VARIANTS, batch_size=10, seed=0):
  """Variants of a group have as many members each."""
  return sampler.GroupSampler(
    np.asarray(variants), np.repeat(members, variants), batch_size, seed
  )


def take(order, count, position=0):
  return list(itertools.islice(order.batches(position), count))


def assert_equal(batches, others):
  for batch, other in zip(batches, others, strict=True):
    for name in sampler.Examples._fields:
      np.testing.assert_array_equal(
        getattr(batch, name), getattr(other, name), strict=True
      )


def columns(batches):
  """Group, variant and member of every example, without the noise."""
  return np.concatenate([np.stack(batch[:3], axis=1) for batch in batches])


def replay(batches, members):
  """Reads one run by the published rule; fails where the run breaks it.

  Returns:
    For each pass, its visits: (group, variant, members in order).
  """
  passes, left = [], set()
  for batch in batches:
    group, variant, member = (array.tolist() for array in batch[:3])
    at = 0
    while at < len(group):
      if not left:
        left = set(range(len(members)))
        passes.append([])
      # Each group once in a pass; whole, unless the batch ends before.
      assert group[at] in left
      left.remove(group[at])
      end = min(at + members[group[at]], len(group))
      assert set(group[at:end]) == {group[at]}
      assert len(set(variant[at:end])) == 1
      assert len(set(member[at:end])) == end - at
      assert set(member[at:end]) <= set(range(members[group[at]]))
      passes[-1].append((group[at], variant[at], member[at:end]))
      at = end
  return passes


def runs(order, count):
  """The first `count` runs, a list of batches each."""
  batches = take(order, count * order.batches_per_run)
  return [
    batches[i : i + order.batches_per_run]
    for i in range(0, len(batches), order.batches_per_run)
  ]


def assert_uniform(draws, count):
  """Chi-square of numbers from 0 to count - 1; about one seed in 1000 fails."""
  observed = np.bincount(draws, minlength=count)
  assert len(observed) == count
  assert stats.chisquare(observed).pvalue > 1e-3


@pytest.mark.parametrize('batch_size', [1, 4, 10, 37, 50, 100])
def test_every_batch_is_full(short_runs, batch_size):
  order = make(batch_size=batch_size)
  for batch in take(order, 2 * order.batches_per_run + 1):
    for array in batch[:3]:
      assert array.shape == (batch_size,)
      assert np.issubdtype(array.dtype, np.integer)
    assert batch.noise.shape == (batch_size, 2)
    assert (batch.group >= 0).all() and (batch.group < len(MEMBERS)).all()
    assert (batch.member >= 0).all()
    assert (batch.member < MEMBERS[batch.group]).all()
    assert (batch.variant >= 0).all()
    assert (batch.variant < VARIANTS[batch.group]).all()
    assert (batch.noise >= 0).all() and (batch.noise < 1).all()


@pytest.mark.parametrize('batch_size', [1, 4, 10, 37, 50, 100])
def test_published_rule(short_runs, batch_size):
  for run in runs(make(batch_size=batch_size), 4):
    passes = replay(run, MEMBERS)
    # A pass ends when each group has come, and the next follows at once.
    assert all(len(visits) == len(MEMBERS) for visits in passes[:-1])


def test_a_group_is_cut_only_by_a_full_batch(short_runs):
  # `replay` allows a cut at a batch's end alone: here some must happen, and
  # the cut group's other members must not come back.
  for run in runs(make(), 4):
    visits = [visit for one in replay(run, MEMBERS) for visit in one]
    cut = [v for v in visits if len(v[2]) < MEMBERS[v[0]]]
    assert 0 < len(cut) <= len(run)


@pytest.mark.parametrize(
  ('members', 'batch_size', 'expected'),
  [
    (MEMBERS, 10, 11),  # 3 passes of 37: 111 examples
    (MEMBERS, 37, 9),
    (MEMBERS, 100, 9),  # 25 passes: 925
    ([1] * 6, 4, 9),  # 6 passes: 36
    ([1] * 7, 4, 10),  # 6 passes: 42, of which 2 are dropped
    ([1], 1, 9),
    ([200], 10, 20),
  ],
)
def test_length_of_a_run(short_runs, members, batch_size, expected):
  order = make(members, [1] * len(members), batch_size)
  assert order.batches_per_run == expected


def test_variants_of_different_sizes(short_runs):
  variants = np.array([3, 1, 2])
  members = np.array([2, 5, 1, 4, 3, 0])
  order = sampler.GroupSampler(variants, members, 6, seed=3)
  # A pass has 8/3 + 4 + 3/2 examples on average: 7 passes, 57.2 examples.
  assert order.batches_per_run == 9
  seen = columns(take(order, 3000))
  counts = np.zeros((3, 3, 5), int)
  np.add.at(counts, tuple(seen.T), 1)
  sizes = np.array([[2, 5, 1], [4, 0, 0], [3, 0, 0]])
  for group, variant in np.ndindex(3, 3):
    shown = counts[group, variant]
    assert (shown[: sizes[group, variant]] > 0).all()
    assert not shown[sizes[group, variant] :].any()


def test_groups_of_one_member_fill_a_run_with_whole_passes(short_runs):
  order = make([1] * 6, [2] * 6, batch_size=4)
  for run in runs(order, 3):
    passes = replay(run, [1] * 6)
    assert [len(visits) for visits in passes] == [6] * 6


def test_position_alone_gives_the_batch(short_runs):
  order = make()
  length = order.batches_per_run
  batches = take(order, 3 * length + 5)
  for position in (
    *(0, 1, 4, length - 1, length, length + 1),
    *(2 * length - 1, 2 * length, 3 * length + 2),
  ):
    assert_equal(take(make(), 3, position), batches[position : position + 3])
  assert_equal(take(make(), 2 * length + 2, length + 3), batches[length + 3 :])


def test_two_iterators_do_not_disturb_each_other(short_runs):
  order = make()
  expected = take(order, 20)
  one, two = order.batches(0), order.batches(7)
  for i in range(13):
    assert_equal([next(one), next(two)], [expected[i], expected[i + 7]])


def test_a_far_position():
  order = make()
  position = 10**6
  assert position > 2 * order.batches_per_run
  (before, batch) = take(order, 2, position - 1)
  assert_equal(take(order, 1, position), [batch])
  assert columns([before]).tolist() != columns([batch]).tolist()


def test_usual_runs_have_1024_batches_or_a_pass_more():
  # The tasks of ARC-1 and the published batch.
  rng = np.random.default_rng(0)
  members = rng.integers(2, 11, 960)
  order = make(members, np.full(960, 1001), batch_size=768)
  length = order.batches_per_run
  assert 1024 <= length <= 1024 + members.sum() // 768 + 1
  first, last = next(order.batches(0)), next(order.batches(length - 1))
  assert columns([first]).tolist() != columns([last]).tolist()
  replay(take(order, 12), members)


def test_seeds_runs_and_passes_differ(short_runs):
  order = make([1] * 30, [50] * 30, batch_size=30)
  length = order.batches_per_run
  draws = [*take(order, 2 * length), *take(make([1] * 30, [50] * 30, 30, 1), 9)]
  for array in zip(*draws, strict=True):
    if array[0].any():  # `member` is always 0
      assert len({part.tobytes() for part in array}) == len(draws)


def test_processes_feed_parts_of_the_same_batch(short_runs):
  for batch in take(make(), 12):
    parts = [batch.rows(slice(0, 5)), batch.rows(slice(5, 10))]
    assert [len(part.group) for part in parts] == [5, 5]
    whole = sampler.Examples(*map(np.concatenate, zip(*parts, strict=True)))
    assert_equal([whole], [batch])


@pytest.fixture(scope='module')
def visits():
  """All visits of some 600 passes, of which few groups were cut."""
  batches = take(make([5] * 8, [6] * 8, batch_size=100, seed=1), 240)
  passes = replay(batches, [5] * 8)
  assert len(passes) == 600
  return passes


def test_groups_come_in_any_order(visits):
  assert_uniform([one[0][0] for one in visits], 8)
  assert_uniform([one[-1][0] for one in visits], 8)
  # Who follows whom.
  steps = [
    (after[0] - before[0]) % 8 - 1
    for one in visits
    for before, after in itertools.pairwise(one)
  ]
  assert_uniform(steps, 7)


def test_variants_are_uniform(visits):
  for group in range(8):
    assert_uniform([v for one in visits for g, v, _ in one if g == group], 6)


def test_variants_of_one_pass_are_independent(visits):
  pairs = [6 * one[0][1] + one[1][1] for one in visits]
  assert_uniform(pairs, 36)


def test_members_come_in_any_order(visits):
  orders = list(itertools.permutations(range(5)))
  drawn = [orders.index(tuple(m)) for one in visits for _, _, m in one]
  assert_uniform(drawn, 120)


def test_variants_of_groups_of_any_number(short_runs):
  order = make(seed=2)
  seen = columns(take(order, 1000))
  for group, count in enumerate(VARIANTS):
    assert set(seen[seen[:, 0] == group, 1]) == set(range(count))


def test_noise_is_uniform_and_independent():
  batches = take(make(seed=1), 400)
  noise = np.concatenate([batch.noise for batch in batches])
  cells = (10 * noise).astype(int)
  assert_uniform(10 * cells[:, 0] + cells[:, 1], 100)
  assert len(np.unique(noise)) == noise.size
  # It says nothing about what else is drawn.
  drawn = columns(batches)
  for column in range(3):
    for axis in range(2):
      correlation = np.corrcoef(drawn[:, column], noise[:, axis])[0, 1]
      assert abs(correlation) < 4 / np.sqrt(len(noise))


def test_a_run_shows_each_group_nearly_equally(monkeypatch):
  monkeypatch.setattr(sampler, '_MIN_RUN', 600)
  members = np.array([3] * 12 + [1] * 4)
  (run,) = runs(make(members, [2] * 16, batch_size=20), 1)
  visits = [g for one in replay(run, members) for g, _, _ in one]
  counts = np.bincount(visits, minlength=16)
  assert counts.max() - counts.min() <= 1
  # Cuts take some members away, from every group alike.
  group, _, member = columns(run).T
  shown = np.bincount(3 * group + member, minlength=48).reshape(16, 3)
  assert_uniform(np.repeat(np.arange(36), shown[:12].ravel()), 36)
  assert 0.9 * counts.max() < shown[:12].mean() < counts.max()
  np.testing.assert_array_equal(shown[12:, 0], counts[12:])
