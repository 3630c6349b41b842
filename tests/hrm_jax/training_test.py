"""The order of the loop, and the means that it writes."""

import jax.numpy as jnp
import numpy as np
import pytest

from hrm_jax import act, sharding, train_step, training
from hrm_jax.errors import ConfigError
from hrm_jax.train_state import TrainState

BATCH_SIZE = 8


class Recorder:
  """Stands for everything around the loop, and writes down what it does."""

  def __init__(self, end, saved=None):
    self.calls, self.lines = [], []
    self.total_steps, self.batch_size = end, BATCH_SIZE
    self.num_puzzle_identifiers = 2
    self._saved = saved

  # Set-up and step.

  def init(self):
    return self.state(0)

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

  def step(self, state, batch):
    self.calls.append(f'step {state.step} on {int(batch["inputs"][0])}')
    number = int(state.step) + 1
    metrics = {
      'learning_rate': 0.5 * number,
      'gradient_norm': 3.0 * number,
      'count': 0 if number % 2 else number,
      'accuracy': 0.0 if number % 2 else 0.25 * number,
      'lm_loss': 2.0 * number,
      'loss': 4.0 * number,
    } | dict.fromkeys(('exact_accuracy', 'q_halt_accuracy', 'steps'), 0.0)
    return state.replace(step=state.step + 1), metrics, None

  # Checkpoints.

  def steps(self):
    return [] if self._saved is None else [self._saved]

  def find(self):
    return self._saved

  def restore(self, step, like):
    del like
    self.calls.append(f'restore {step}')
    return self.state(step)

  def save(self, state, position):
    self.calls.append(f'save {state.step} at {position.data_position}')

  # Hooks.

  def batches(self, position):
    while True:
      self.calls.append(f'batch {position}')
      yield {'inputs': np.full(BATCH_SIZE, position, np.int32)}
      position += 1

  def position(self, number):
    """The hook's, and that of the checkpoint of a step, which is small."""
    data_position = 100 + number if number == self._saved else number
    return training.checkpoints.Position(data_position, [], '')

  def evaluate(self, state):
    self.calls.append(f'evaluate {state.step}')
    return {'score': 1.0}

  def write(self, step, metrics):
    self.calls.append(f'write {step}')
    self.lines.append((step, metrics))


def _train(monkeypatch, recorder, **settings):
  monkeypatch.setattr(train_step, 'sharded_step', lambda *_: recorder.step)
  monkeypatch.setattr(
    train_step, 'sharded_init', lambda setup, mesh: setup.init()
  )
  monkeypatch.setattr(train_step, 'abstract_state', lambda *_: None)
  off = dict.fromkeys(
    ('stop_at_step', 'log_every', 'evaluate_every', 'checkpoint_every'), 0
  )
  return training.train(
    recorder,
    sharding.make_mesh(),
    recorder,
    training.LoopSettings(**(off | settings)),
    training.Hooks(
      recorder.batches, recorder.position, recorder.evaluate, recorder.write
    ),
  )


def test_the_order_of_the_loop(monkeypatch):
  recorder = Recorder(end=4)
  state = _train(
    monkeypatch, recorder, log_every=1, evaluate_every=2, checkpoint_every=3
  )
  assert state.step == 4
  # The metrics of a step are written when the next has been dispatched, or
  # before an evaluation or a checkpoint: a resumed run lacks no line.
  assert recorder.calls == [
    'batch 0', 'step 0 on 0',
    'batch 1', 'step 1 on 1', 'write 1',
    'write 2', 'evaluate 2', 'write 2', 'batch 2', 'step 2 on 2',
    'write 3', 'save 3 at 3', 'batch 3', 'step 3 on 3',
    'write 4', 'evaluate 4', 'write 4', 'save 4 at 4',
  ]  # fmt: skip


def test_a_checkpoint_is_gone_on_from(monkeypatch):
  recorder = Recorder(end=4, saved=2)
  _train(monkeypatch, recorder, evaluate_every=2, checkpoint_every=2)
  # Data go on from the saved position; what step 2 did is not done again.
  assert recorder.calls == [
    'restore 2',
    'batch 102', 'step 2 on 102',
    'batch 103', 'step 3 on 103',
    'write 4', 'evaluate 4', 'write 4', 'save 4 at 104',
  ]  # fmt: skip


@pytest.mark.parametrize('stop, end', [(0, 4), (3, 3), (9, 4)])
def test_the_loop_ends_with_a_checkpoint(monkeypatch, stop, end):
  recorder = Recorder(end=4)
  state = _train(monkeypatch, recorder, stop_at_step=stop)
  assert state.step == end
  assert recorder.calls[-1] == f'save {end} at {end}'
  saves = [call for call in recorder.calls if call.startswith('save')]
  assert len(saves) == 1


@pytest.mark.parametrize('stop', [0, 4, 2])
def test_a_finished_run_does_nothing(monkeypatch, stop):
  recorder = Recorder(end=4, saved=4)
  state = _train(
    monkeypatch,
    recorder,
    stop_at_step=stop,
    log_every=1,
    evaluate_every=1,
    checkpoint_every=1,
  )
  assert recorder.calls == ['restore 4']
  assert state is not None
  assert state.step == 4


def test_lines_hold_the_means_of_their_window(monkeypatch):
  recorder = Recorder(end=5)
  _train(monkeypatch, recorder, log_every=3)
  (first, one), (second, two) = recorder.lines
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


def test_no_mean_over_no_rows(monkeypatch):
  recorder = Recorder(end=1)
  _train(monkeypatch, recorder, log_every=1)
  [(_, line)] = recorder.lines
  assert line['halted'] == 0
  assert line.keys() == {
    'learning_rate', 'gradient_norm', 'lm_loss', 'loss', 'halted',
  }  # fmt: skip


@pytest.mark.parametrize(
  'name', ['stop_at_step', 'log_every', 'evaluate_every', 'checkpoint_every']
)
def test_negative_settings_are_named(name):
  settings = dict(
    stop_at_step=0, log_every=0, evaluate_every=0, checkpoint_every=0
  )
  with pytest.raises(ConfigError, match=f'{name}=-1'):
    training.LoopSettings(**(settings | {name: -1}))
