"""The order of the loop, the means that it writes, and how it goes on."""

import dataclasses
import itertools
import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines.errors import ConfigError
from hrm_jax.parallel import sharding
from hrm_jax.settings import DivergenceSettings, Settings
from hrm_jax.training import act, divergence, metrics_log
from hrm_jax.training import loop as training
from hrm_jax.training import step as train_step
from hrm_jax.training.state import TrainState
from hrm_jax.workdir import checkpoints

BATCH_SIZE = 8


class Run:
  """Stands for everything around the loop, and writes down what it does.

  What is saved, a state and a position by step, outlives `train`.
  """

  def __init__(self, total_steps=4, **changes):
    self.calls, self.lines, self.reports = [], [], {}
    self.saved, self.directory, self.profile = {}, 'checkpoints', None
    self.setup = types.SimpleNamespace(
      total_steps=total_steps,
      batch_size=BATCH_SIZE,
      num_puzzle_identifiers=2,
      divergence=DivergenceSettings(),
    )
    vars(self.setup).update(changes)
    # What the next evaluations give, None where they are stopped; at which
    # questions `stop` says yes; batches that diverge.
    self.scores, self.stops, self.bad = [], set(), set()
    self._asked = 0

  def state(self, step):
    return TrainState(
      step=jnp.int32(step),
      params=jnp.zeros(3),
      ema=None,
      constants={},
      opt_state={},
      puzzle_table=jnp.zeros((2, 2)),
      loss_mean=jnp.float32(jnp.inf),
      carry=act.initial_carry(jnp.zeros((8, 1)), BATCH_SIZE, 2),
    )

  def at_once(self, count):
    def call(state, batches):
      told = []
      for i in range(count):
        state, *one = self.step(state, {k: v[i] for k, v in batches.items()})
        told.append(one)
      return state, *jax.tree.map(lambda *leaves: np.stack(leaves), *told)

    return call if count > 1 else self.step

  def step(self, state, batch):
    position = int(batch['inputs'][0])
    self.calls.append(f'step {state.step} on {position}')
    number = int(state.step) + 1
    metrics = {
      'learning_rate': 0.5 * number,
      'gradient_norm': 3.0 * number,
      'count': 0 if number % 2 else number,
      'accuracy': 0.0 if number % 2 else 0.25 * number,
      'exact_accuracy': 0.0 if number % 2 else 0.5 * number,
      'lm_loss': 2.0 * number,
      'loss': 4.0 * number,
    } | dict.fromkeys(('q_halt_accuracy', 'steps'), 0.0)
    metrics = {name: np.float64(value) for name, value in metrics.items()}
    diagnosis = divergence.Diagnosis(
      reason=np.int32(2 if position in self.bad else 0),
      loss=np.float32(1.5),
      loss_mean=np.float32(np.inf),
      gradient_norms={'lm_head': np.float32(np.nan)},
      gradient_norm=np.float32(np.nan),
      puzzle_identifiers=np.array([1, 0]),
    )
    return state.replace(step=state.step + 1), metrics, diagnosis

  # Checkpoints.

  def steps(self):
    return sorted(self.saved)

  def find(self):
    return max(self.saved)

  def position(self, step):
    return self.saved[step]

  def restore(self, step, like):
    self.calls.append(f'restore {step}')
    state = self.state(step)
    return state if like.carry is not None else state.replace(carry=None)

  def save(self, state, position):
    self.calls.append(f'save {state.step} at {position.data_position}')
    assert self.synced == self.lines
    self.saved[int(state.step)] = position

  def check(self):
    pass

  def wait(self):
    self.calls.append('wait')

  # Hooks.

  def batches(self, position):
    while True:
      self.calls.append(f'batch {position}')
      yield {'inputs': np.full(BATCH_SIZE, position, np.int32)}
      position += 1

  def position_of_data(self, number):
    names = ['<blank>', 'a']
    return checkpoints.Position(number, names, '', self.setup.batch_size)

  def start(self, fresh):
    return fresh

  def evaluate(self, state):
    self.calls.append(f'evaluate {state.step}')
    score = self.scores.pop(0) if self.scores else 1.0
    return None if score is None else {'eval/score': score}

  def write(self, step, metrics):
    self.calls.append(f'write {step}')
    self.lines.append((step, metrics))

  def sync(self):
    self.synced = [*self.lines]

  def forget(self, step, lines):
    self.lines = [line for line in self.lines if line[0] <= step]
    assert len(self.lines) - lines in (0, 1)
    return len(self.lines)

  def evaluation_of(self, step):
    found = (m for s, m in self.lines if s == step and 'eval/score' in m)
    return next(found, None)

  def report(self, batch, facts):
    self.reports[batch] = facts
    return f'report of {batch}'

  def stop(self):
    self._asked += 1
    return self._asked in self.stops

  def train(self, **settings):
    """Trains as one process does; returns its state."""
    self._asked = 0
    off = dict.fromkeys(
      ('stop_at_step', 'log_every', 'evaluate_every', 'checkpoint_every'), 0
    )
    with pytest.MonkeyPatch.context() as patch:
      patch.setattr(train_step, 'sharded_step', lambda *x: self.at_once(x[2]))
      patch.setattr(train_step, 'sharded_init', lambda *_: self.state(0))
      patch.setattr(train_step, 'abstract_state', lambda *_: self.state(0))
      patch.setattr(train_step, 'sharded_carry', lambda *_: 'new carry')
      run = types.SimpleNamespace(
        settings=Settings(
          batch_size=self.setup.batch_size,
          divergence=self.setup.divergence,
          **(off | settings),
        ),
        mesh=sharding.make_mesh(),
        setup=self.setup,
        profile=self.profile,
        batches=self.batches,
        position=self.position_of_data,
        start=self.start,
        evaluate=self.evaluate,
        write=self.write,
        sync=self.sync,
        forget=self.forget,
        evaluation_of=self.evaluation_of,
        report=self.report,
        stop=self.stop,
      )
      return training.train(run, self)


def test_the_order_of_the_loop():
  run = Run()
  state = run.train(log_every=1, evaluate_every=2, checkpoint_every=3)
  assert state.step == 4
  # The metrics of a step are written when the next has been dispatched, or
  # before an evaluation or a checkpoint: a resumed run lacks no line.
  assert run.calls == [
    'batch 0', 'step 0 on 0',
    'batch 1', 'step 1 on 1', 'write 1',
    'write 2', 'evaluate 2', 'write 2', 'batch 2', 'step 2 on 2',
    'write 3', 'save 3 at 3', 'batch 3', 'step 3 on 3',
    'write 4', 'evaluate 4', 'write 4', 'save 4 at 4',
  ]  # fmt: skip


def test_no_call_passes_what_is_due():
  run = Run(total_steps=9)
  run.train(evaluate_every=5, checkpoint_every=4, steps_per_call=2)
  # What one call does is drawn before it, and written after the next one.
  assert run.calls == [
    'batch 0', 'batch 1', 'step 0 on 0', 'step 1 on 1',
    'batch 2', 'batch 3', 'step 2 on 2', 'step 3 on 3', 'save 4 at 4',
    'batch 4', 'step 4 on 4', 'evaluate 5', 'write 5',
    'batch 5', 'batch 6', 'step 5 on 5', 'step 6 on 6',
    'batch 7', 'step 7 on 7', 'save 8 at 8',
    'batch 8', 'step 8 on 8', 'write 9', 'save 9 at 9',
  ]  # fmt: skip


def test_steps_that_are_traced_are_calls_of_their_own():
  run = Run(total_steps=9)
  run.profile = types.SimpleNamespace(
    bounds=(2, 4), at=lambda step: run.calls.append(f'trace {step}')
  )
  run.train(steps_per_call=3)
  calls = [c for c in run.calls if c.startswith(('trace', 'batch'))]
  # Calls of three would begin at 0 and at 3.
  assert calls == [
    'batch 0', 'batch 1', 'trace 2', 'batch 2', 'batch 3', 'trace 4',
    'batch 4', 'batch 5', 'batch 6', 'batch 7', 'batch 8',
  ]  # fmt: skip


def test_a_checkpoint_is_gone_on_from():
  run = Run()
  run.train(stop_at_step=2)
  run.saved[2] = run.saved[2]._replace(data_position=102)
  run.calls.clear()
  run.train(evaluate_every=2, checkpoint_every=2)
  # Data go on from the saved position; the evaluation due there is made.
  assert run.calls == [
    'restore 2', 'evaluate 2', 'write 2',
    'batch 102', 'step 2 on 102',
    'batch 103', 'step 3 on 103',
    'write 4', 'evaluate 4', 'write 4', 'save 4 at 104',
  ]  # fmt: skip


@pytest.mark.parametrize('stop, end', [(0, 4), (3, 3), (9, 4)])
def test_the_loop_ends_with_a_checkpoint(stop, end):
  run = Run()
  assert run.train(stop_at_step=stop).step == end
  assert run.calls[-1] == f'save {end} at {end}'
  assert sum(call.startswith('save') for call in run.calls) == 1


@pytest.mark.parametrize('stop', [0, 4, 2])
def test_a_finished_run_does_nothing(stop):
  run = Run()
  every = dict(log_every=1, evaluate_every=1, checkpoint_every=1)
  run.train(**every)
  run.calls.clear()
  lines = list(run.lines)
  assert run.train(**every, stop_at_step=stop).step == 4
  assert run.calls == ['restore 4']
  assert run.lines == lines


def test_lines_hold_the_means_of_their_window():
  run = Run(total_steps=5)
  run.train(log_every=3)
  (first, one), (second, two) = run.lines
  assert (first, second) == (3, 5)
  # Losses by rows, rates and norms by steps, and the rest by the rows that
  # halted: none in steps 1, 3 and 5, two in step 2 and four in step 4.
  assert one['loss'] == 4 * (1 + 2 + 3) / (3 * BATCH_SIZE)
  assert one['lm_loss'] == 2 * (1 + 2 + 3) / (3 * BATCH_SIZE)
  assert one['learning_rate'] == 0.5 * 2
  assert one['gradient_norm'] == 3 * 2
  assert (one['halted'], one['accuracy']) == (2, 0.25)
  # What is left at the end is a window too, as long as it is.
  assert two['loss'] == 4 * (4 + 5) / (2 * BATCH_SIZE)
  assert two['learning_rate'] == 0.5 * 4.5
  assert (two['halted'], two['accuracy']) == (4, 0.25)


def test_the_log_tells_the_speed(caplog, monkeypatch):
  Run().train(log_every=2)
  assert re.search(r'step 4/4 .* ms/step  [\d,]+ rows/s  \d:', caplog.text)
  # Where the devices' full rate is known; by a clock that goes on by a second
  # when it is read: after step 1, for the line of step 2 and that of step 4.
  clock = types.SimpleNamespace(monotonic=itertools.count(1).__next__)
  monkeypatch.setattr(metrics_log, 'time', clock)
  monkeypatch.setattr(training.flops, 'full_rate_seconds', lambda *_: 0.5)
  caplog.clear()
  Run().train(log_every=2)
  assert re.findall(r'\S+ ms/step .*', caplog.text) == [
    '1e+03 ms/step  8 rows/s  utilisation 50%  0:00:02 left',
    '667 ms/step  12 rows/s  utilisation 75%  0:00:00 left',
  ]


def test_no_mean_over_no_rows():
  run = Run(total_steps=1)
  run.train(log_every=1)
  [(_, line)] = run.lines
  assert line['halted'] == 0
  assert line.keys() == {
    'learning_rate', 'gradient_norm', 'lm_loss', 'loss', 'halted',
  }  # fmt: skip


def _straight(**settings):
  run = Run(total_steps=9)
  run.train(**settings)
  return run


def _until_done(run, **settings):
  """Starts it again and again, as a supervisor does; how often it stopped."""
  for stopped in range(100):
    try:
      run.train(**settings)
    except training.Preempted as preempted:
      # All that was done is saved.
      assert preempted.step == max(run.saved, default=0)
    else:
      return stopped
  raise AssertionError('it never ends')


@pytest.mark.parametrize('count', [1, 2, 3])
@pytest.mark.parametrize('question', range(1, 4))
def test_stopped_at_any_step_the_lines_are_the_same(question, count):
  every = dict(log_every=4, evaluate_every=3, checkpoint_every=5)
  run = Run(total_steps=9)
  run.stops = {question}
  # At its first question, before it has done anything, it would stop for ever.
  if question == 1:
    with pytest.raises(training.Preempted):
      run.train(**every, steps_per_call=count)
    assert not run.saved
    run.stops = set()
  _until_done(run, **every, steps_per_call=count)
  straight = _straight(**every)
  assert run.lines == straight.lines
  steps = [call for call in run.calls if call.startswith('step')]
  assert steps == [call for call in straight.calls if call.startswith('step')]


@pytest.mark.parametrize('at_end', [False, True])
def test_an_evaluation_that_is_stopped_is_made_by_the_next_start(at_end):
  every = dict(log_every=4, evaluate_every=9 if at_end else 3)
  run = Run(total_steps=9)
  run.scores = [None, None]
  assert _until_done(run, **every) == 2
  assert run.lines == _straight(**every).lines
  # It is remembered: no later start makes it again.
  run.calls.clear()
  assert run.train(**every).step == 9
  assert run.calls == ['restore 9']


@pytest.mark.parametrize('count', [1, 2])
def test_killed_at_any_call_the_lines_are_the_same(count):
  """All that stays is what was saved, and the lines written since."""

  class Killed(Exception):
    pass

  class Calls(list):
    left = 10**6

    def append(self, call):
      super().append(call)
      self.left -= 1
      if not self.left:
        raise Killed

  every = dict(log_every=2, evaluate_every=3, checkpoint_every=2)
  straight = _straight(**every)
  for moment in range(1, len(straight.calls) + 1):
    run = Run(total_steps=9)
    run.calls = Calls()
    run.calls.left = moment
    with pytest.raises(Killed):
      run.train(**every, steps_per_call=count)
    run.train(**every, steps_per_call=count)
    assert run.lines == straight.lines, moment
    assert run.saved[9] == straight.saved[9]


def test_the_best_of_the_evaluations_is_saved():
  run = Run(total_steps=6)
  run.scores = [0.2, 0.5, 0.5, 0.1, 0.6, 0.3]
  run.train(evaluate_every=1, keep_best=1, best_metric='score')
  assert sorted(run.saved) == [1, 2, 5, 6]
  assert run.saved[6].scores == tuple(
    enumerate((0.2, 0.5, 0.5, 0.1, 0.6, 0.3), 1)
  )


def test_what_was_best_before_a_restart_stays_best():
  run = Run(total_steps=4)
  run.scores = [0.4, 0.6, 0.5, 0.55]
  run.train(evaluate_every=1, keep_best=1, best_metric='score', stop_at_step=2)
  run.train(evaluate_every=1, keep_best=1, best_metric='score')
  # The third is no best any more.
  assert sorted(run.saved) == [1, 2, 4]


@pytest.mark.parametrize('count', [1, 3, 4, 9])
@pytest.mark.parametrize('stopped', [None, 4, 5])
def test_enough_accuracy_ends_the_training(stopped, count):
  """Of the exact puzzles half are right in each window of two steps."""
  run = Run(total_steps=20)
  run.stops = {stopped}
  settings = dict(log_every=4, stop_at_accuracy=0.5, steps_per_call=count)
  _until_done(run, **settings)
  # One step later, whether or not the run was stopped meanwhile.
  assert max(run.saved) == 5
  # And it stays so.
  assert run.train(**settings).step == 5


@pytest.mark.parametrize('stopped', [None, 3, 5])
def test_a_score_that_is_high_enough_ends_the_training(stopped):
  run = Run(total_steps=20)
  run.scores, run.stops = [0.2, 0.9, 0.1], {stopped}
  settings = dict(evaluate_every=2, best_metric='score', stop_at_score=0.9)
  _until_done(run, log_every=3, **settings)
  # With a line of the last step, though none was due, where it was done by
  # the same start.
  lines = [step for step, _ in run.lines]
  assert lines == [2, 3, 4] + [4] * (stopped is None)
  assert max(run.saved) == 4
  # It stays so, and more may be asked for later.
  assert run.train(**settings).step == 4
  run.scores, run.stops = [0.8, 0.95], set()
  assert run.train(**settings | {'stop_at_score': 0.95}).step == 8


def test_other_batch_sizes_start_the_puzzles_anew(caplog):
  run = Run(total_steps=10)
  run.train(stop_at_step=5)
  run.setup.batch_size = 16
  run.train(stop_at_step=6)
  # Five batches of 8 are 40 rows; the third of 16 would show some again.
  assert run.calls[-3:] == ['step 5 on 3', 'write 6', 'save 6 at 4']
  assert 'batch_size was 8 and is 16 now' in caplog.text


def test_other_puzzles_are_refused():
  run = Run()
  run.train(stop_at_step=2)
  run.saved[2] = run.saved[2]._replace(identifier_names=['<blank>', 'b'])
  with pytest.raises(ConfigError, match='trained on other puzzles'):
    run.train()


_of_several = pytest.mark.parametrize('count', [1, 2])


def _diverging(policy, limit=10, bad=(3,), **settings):
  run = Run(divergence=DivergenceSettings(policy, limit=limit), total_steps=8)
  run.bad = set(bad)
  return run, dict(checkpoint_every=2, log_every=1) | settings


@_of_several
def test_divergence_stops_and_leaves_the_last_checkpoint(count):
  run, every = _diverging('stop', steps_per_call=count)
  with pytest.raises(
    ConfigError, match=r'step 4 diverged: the gradient .* see report of 3'
  ):
    run.train(**every)
  assert sorted(run.saved) == [2]
  assert run.reports == {
    3: {
      'step': 4,
      'reason': 'the gradient is not finite',
      'policy': 'stop',
      'batch': 3,
      'loss': 1.5,
      'loss_mean': 'inf',
      'gradient_norm': 'nan',
      'gradient_norms': {'lm_head': 'nan'},
      'puzzle_identifiers': [1, 0],
      'puzzles': ['a', '<blank>'],
    }
  }


@pytest.mark.parametrize('count', [1, 2, 4])
def test_divergence_in_the_step_before_a_checkpoint_is_not_saved(count):
  run, every = _diverging('stop', checkpoint_every=4, steps_per_call=count)
  with pytest.raises(ConfigError, match='step 4 diverged'):
    run.train(**every)
  assert not run.saved


@_of_several
def test_a_diverged_update_is_skipped_and_counted(count):
  run, every = _diverging('skip', log_every=2, steps_per_call=count)
  assert run.train(**every).step == 8
  assert list(run.reports) == [3]
  lines = dict(run.lines)
  assert [line.get('skipped') for line in lines.values()] == [
    None, 1, None, None,
  ]  # fmt: skip
  # Step 3 alone.
  assert lines[4]['loss'] == 4 * 3 / BATCH_SIZE


def test_a_window_of_skipped_updates_has_a_line():
  run, every = _diverging('skip')
  run.train(**every)
  assert dict(run.lines)[4] == {'skipped': 1}
  assert [step for step, _ in run.lines] == list(range(1, 9))


@_of_several
@pytest.mark.parametrize('restart', [False, True])
def test_too_many_skipped_in_a_row_end_the_run(restart, count):
  bad = (1, 3, 4, 5, 6, 7)
  run, every = _diverging('skip', limit=3, bad=bad, steps_per_call=count)
  if restart:
    run.train(**every, stop_at_step=6)
  with pytest.raises(ConfigError, match=r'step 7 diverged.* 3 updates before'):
    run.train(**every)


def test_a_rollback_goes_on_with_other_data():
  run, every = _diverging('rollback', bad=(4,))
  assert run.train(**every).step == 8
  steps = [call for call in run.calls if call.startswith(('step', 'restore'))]
  assert steps == [
    'step 0 on 0', 'step 1 on 1', 'step 2 on 2', 'step 3 on 3',
    # It is known when the next one has been dispatched.
    'step 4 on 4', 'step 5 on 5',
    'restore 4', 'step 4 on 5', 'step 5 on 6', 'step 6 on 7', 'step 7 on 8',
  ]  # fmt: skip
  assert [step for step, _ in run.lines] == list(range(1, 9))
  assert run.saved[8].data_position == 9


def test_a_rollback_is_to_the_batch_after_the_bad_one_of_a_call():
  run, every = _diverging(
    'rollback', bad=(5,), checkpoint_every=4, steps_per_call=4
  )
  assert run.train(**every).step == 8
  # The last step of the first call is saved; the second call's is not.
  calls = [c for c in run.calls if c.startswith(('step', 'restore'))]
  assert calls[4:9] == [
    'step 4 on 4', 'step 5 on 5', 'step 6 on 6', 'step 7 on 7', 'restore 4',
  ]  # fmt: skip
  assert calls[9:] == [
    'step 4 on 6', 'step 5 on 7', 'step 6 on 8', 'step 7 on 9',
  ]  # fmt: skip
  assert [step for step, _ in run.lines] == list(range(1, 9))
  assert run.saved[8].data_position == 10


def test_a_rollback_before_any_checkpoint_begins_anew():
  run, every = _diverging('rollback', bad=(0,))
  assert run.train(**every, stop_at_step=1).step == 1
  assert run.calls[-3:] == ['step 0 on 1', 'write 1', 'save 1 at 2']


def test_rollbacks_have_an_end():
  run, every = _diverging('rollback', limit=2, bad=range(3, 100))
  with pytest.raises(ConfigError, match='rolled back to step 2 2 times alread'):
    run.train(**every)
  assert sorted(run.saved) == [2]


@pytest.mark.parametrize(
  'fields, message',
  [
    ({'policy': 'hope'}, "policy='hope' is unknown; use one of stop, skip"),
    ({'loss_spike': 0.5}, 'loss_spike=0.5 must be above 1'),
    ({'loss_spike': float('nan')}, 'loss_spike=nan must be a finite number'),
    ({'limit': 0}, 'limit=0 must be at least 1'),
  ],
)
def test_what_counts_as_divergence_is_checked(fields, message):
  with pytest.raises(ConfigError, match=message):
    dataclasses.replace(DivergenceSettings(), **fields)


@pytest.mark.parametrize(
  'name', ['stop_at_step', 'log_every', 'evaluate_every', 'checkpoint_every']
)
def test_negative_settings_are_named(name):
  with pytest.raises(ConfigError, match=f'{name}=-1'):
    Settings(**{name: -1})


@pytest.mark.parametrize(
  'fields, message',
  [
    ({'stop_at_accuracy': 1.5}, 'stop_at_accuracy=1.5 must lie in'),
    ({'stop_at_accuracy': 0.9, 'log_every': 0}, 'log_every steps, which is 0'),
    ({'stop_at_score': -1.0}, 'stop_at_score=-1.0 must lie in'),
    ({'keep_best': 1}, 'need evaluations to go by'),
    ({'stop_at_score': 0.9}, 'need evaluations to go by'),
  ],
)
def test_settings_that_do_not_fit_together(fields, message):
  with pytest.raises(ConfigError, match=message):
    Settings(**fields)
