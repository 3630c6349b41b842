"""Compares the model with golden files of the published code.

  hrm-jax verify_parity --golden=tests/golden/hrm_rope.npz

For each file, of HRM, TRM, URM or CompressARC, it prints a table and, as its
last line, one JSON object. The exit code is 1 where any group exceeds its
tolerance.
"""

import dataclasses
import json
import zipfile
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from data_pipelines.errors import ConfigError
from experiments.cli import command, launch, shared_flags
from hrm_jax import build
from hrm_jax.compressarc import parity
from hrm_jax.parallel import sharding
from hrm_jax.published import names as published
from hrm_jax.settings import MODELS, ActSettings, Settings
from hrm_jax.training import step as train_step

FLAGS = shared_flags.define(*shared_flags.JAX)
flags.DEFINE_multi_string(
  'golden', None, 'Golden .npz file to replay; may be given several times.',
  flag_values=FLAGS,
)  # fmt: skip
shared_flags.require(FLAGS, 'golden', 'tests/golden/hrm_rope.npz')

# Greatest ‖a − b‖ / ‖b‖. The golden numbers carry float32 noise themselves
# (losses 3e-6, metric losses 2e-4, gradients 4e-6, final parameters 3e-7,
# segments 8e-5 against float64); these leave room for an independent float32
# implementation and for nothing else. Rates are equal up to the rounding of a
# float32 (the published schedule is float64).
TOLERANCES = {
  'evaluation segments': 2e-4,
  'losses': 1e-5,
  'metric losses': 1e-3,
  'gradients': 1e-5,
  'final parameters': 2e-6,
  'learning rate': 4 * float(np.finfo(np.float32).eps),
  'halting, steps, counts': 0.0,
}


class _Fields(dict):
  """A part of a golden file, all of which must be used."""

  def __init__(self, where: str, fields: Mapping[str, Any]):
    super().__init__(fields)
    self.where = where

  def take(self, key: str) -> Any:
    if key not in self:
      raise ConfigError(f"{self.where}: key '{key}' is missing")
    return self.pop(key)

  def finish(self) -> None:
    if self:
      names = ', '.join(sorted(self))
      raise ConfigError(f'{self.where}: keys not known: {names}')


class Errors:
  """The worst relative error of each group, and the array that it is in."""

  def __init__(
    self, golden: _Fields, tolerances: Mapping[str, float] = TOLERANCES
  ):
    self.golden, self.tolerances = golden, tolerances
    self.worst = dict.fromkeys(tolerances, (0.0, ''))

  def compare(self, group: str, key: str, ours: Any) -> None:
    """Records ‖ours − golden‖ / ‖golden‖ (‖ours‖ where golden is 0)."""
    ours = np.asarray(ours, np.float64)
    golden = np.asarray(self.golden.take(key), np.float64)
    if ours.shape != golden.shape:
      raise ConfigError(
        f'{key} has shape {golden.shape} where this model gives {ours.shape}'
      )
    error = float(np.linalg.norm(ours - golden))
    if norm := float(np.linalg.norm(golden)):
      error /= norm
    self.record(group, key, error)

  def record(self, group: str, key: str, error: float) -> None:
    """Records an error that was found."""
    if not np.isfinite(error):
      error = np.inf
    if error > self.worst[group][0]:
      self.worst[group] = (error, key)

  @property
  def ok(self) -> bool:
    """Whether every group stays within its tolerance."""
    return all(self.worst[g][0] <= most for g, most in self.tolerances.items())


def read_setup(path: str, config: Mapping[str, Any]) -> train_step.TrainSetup:
  """The training setup that a golden file's config describes."""
  config = _Fields(f'{path} config', config)
  arch = _Fields(f'{path} arch', config.take('arch'))
  rates = _Fields(f'{path} opt', config.take('opt'))
  loss_type = config.take('loss_type')
  if loss_type not in published.LOSSES:
    raise ConfigError(f"{path}: loss_type '{loss_type}' is not known")
  for name in ('seed', 'train_steps'):
    config.take(name)
  sizes = [arch.take(name) for name in ('vocab_size', 'seq_len')]
  counts = {
    name: arch.take(name) for name in ('batch_size', 'num_puzzle_identifiers')
  }
  try:
    kind, fields = published.model_fields(arch)
    halting = published.act_fields(arch, kind)
  except KeyError as error:
    raise ConfigError(f'{arch.where}: key {error} is missing') from None
  optimizer = {
    ours: rates.take(theirs)
    for theirs, ours in published.OPTIMIZER_FIELDS.items()
  }
  if rates.pop('use_muon', False):
    optimizer |= published.MUON
  usual = Settings.published(kind).optimizer
  total_steps = rates.take('total_steps')
  for part in (config, arch, rates):
    part.finish()
  return train_step.TrainSetup(
    model=build.model(MODELS[kind](dtype='float32', **fields), *sizes),
    act=ActSettings(**halting),
    optimizer=dataclasses.replace(usual, ema_decay=0.0, **optimizer),
    loss=published.LOSSES[loss_type],
    total_steps=total_steps,
    seed=0,
    **counts,
  )


def load_golden(path: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
  """The config and the arrays of a golden file."""
  try:
    with np.load(path) as file:
      arrays = dict(file)
  except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as e:
    raise ConfigError(f'{path}: not a readable .npz file ({e})') from None
  if parity.ONLY_GUESSES in arrays:
    return {}, arrays
  if 'config' not in arrays:
    raise ConfigError(f"{path}: key 'config' is missing; not a golden file?")
  try:
    config = json.loads(str(arrays.pop('config')))
  except json.JSONDecodeError as error:
    raise ConfigError(f'{path}: config is not JSON ({error})') from None
  return config, arrays


def replay(path: str) -> Errors:
  """Compares evaluation and training with one golden file, all of its keys."""
  config, found = load_golden(path)
  arrays = _Fields(path, found)
  if not config or 'init' in config:
    errors = Errors(arrays, parity.TOLERANCES)
    parity.replay(config, arrays.take, errors.record)
    arrays.finish()
    return errors
  setup = read_setup(path, config)
  model = setup.model
  errors = Errors(arrays)
  state = setup.init()
  initial = {
    key.removeprefix('param/'): arrays.take(key)
    for key in [*arrays]
    if key.startswith('param/')
  }
  try:
    variables = published.from_published(initial, state.trained)
  except ValueError as error:
    raise ConfigError(f'{path}: param/: {error}') from None
  table = variables.pop('puzzle_table', state.puzzle_table)

  fresh = state.replace(
    params=variables['params'],
    constants=variables['constants'],
    puzzle_table=table,
  )
  names = ('inputs', 'labels', 'puzzle_identifiers')
  batches = [
    {name: arrays.take(f'batch{i}/{name}').astype(np.int32) for name in names}
    for i in range(config['train_steps'])
  ]
  _replay_evaluation(setup, variables, table, batches[0], errors)

  draws = np.zeros(setup.batch_size, np.int32)
  gradients_of = jax.jit(
    lambda *inputs: train_step.loss_and_gradients(setup, *inputs, draws)
  )
  _, _, (dense, rows) = gradients_of(fresh, batches[0])
  gradients = published.to_published({'params': dense})
  if model.settings.puzzle_emb_ndim:
    gradients['inner.puzzle_emb.local_weights'] = np.asarray(rows)
  for name, gradient in gradients.items():
    errors.compare('gradients', f'train/step0/grad/{name}', gradient)

  step = train_step.sharded_step(setup, sharding.make_mesh(jax.devices()[:1]))
  # A copy: the step donates its state.
  state = jax.tree.map(jnp.array, fresh)
  for i, batch in enumerate(batches):
    state, metrics, _ = step(state, batch)
    _compare_step(f'train/step{i}', state, metrics, errors)

  for name, parameter in published.to_published(state.trained).items():
    errors.compare('final parameters', f'param_final/{name}', parameter)
  arrays.finish()
  return errors


def _replay_evaluation(setup, variables, table, batch, errors) -> None:
  model = setup.model
  puzzles = table[batch['puzzle_identifiers']]
  x = model.apply(variables, batch['inputs'], puzzles, method='embed')
  z = model.apply(variables, len(x), method='initial_state')

  @jax.jit
  def segment(z):
    z = model.apply(variables, z, x, method='segment_without_gradient')
    return z, *model.apply(variables, z, method='heads')

  for j in range(setup.act.halt_max_steps):
    z, logits, q = segment(z)
    for name, value in {
      **z._asdict(),
      'logits': logits,
      'q_halt_logits': q[:, 0],
      'q_continue_logits': q[:, 1],
    }.items():
      errors.compare('evaluation segments', f'eval/seg{j}/{name}', value)


def _compare_step(prefix, state, metrics, errors) -> None:
  exact, carry = 'halting, steps, counts', state.carry
  for group, name, value in (
    ('losses', 'loss', metrics['loss']),
    ('losses', 'metric/accuracy', metrics['accuracy']),
    *(
      ('metric losses', f'metric/{name}', metrics[name])
      for name in ('lm_loss', 'q_halt_loss', 'q_continue_loss')
      if name in metrics
    ),
    *(
      (exact, f'metric/{name}', metrics[name])
      for name in ('count', 'exact_accuracy', 'q_halt_accuracy', 'steps')
    ),
    (exact, 'halted', carry.halted),
    (exact, 'steps', carry.steps),
    ('learning rate', 'lr', metrics['learning_rate']),
  ):
    errors.compare(group, f'{prefix}/{name}', value)


def report(path: str, errors: Errors) -> str:
  """The table and the line of JSON for one file."""
  lines = [path, f'  {"group":<24}{"worst":>10}{"allowed":>10}  where']
  for group, allowed in errors.tolerances.items():
    worst, where = errors.worst[group]
    mark = '' if worst <= allowed else '  EXCEEDED'
    lines.append(f'  {group:<24}{worst:>10.1e}{allowed:>10.1e}  {where}{mark}')
  result = {
    'ok': errors.ok,
    'file': path,
    # JSON has no infinity: null where an error is not finite.
    'worst': {
      group: worst if np.isfinite(worst) else None
      for group, (worst, _) in errors.worst.items()
    },
  }
  return '\n'.join([*lines, json.dumps(result)])


def main(_) -> int:
  # Float32 products in full, also where the hardware would round them.
  jax.config.update('jax_default_matmul_precision', 'highest')
  failed = 0
  for path in FLAGS.golden:
    errors = replay(path)
    failed += not errors.ok
    print(report(path, errors), flush=True)
  return 1 if failed else 0


if __name__ == '__main__':
  command.run(main, FLAGS, launch.start)
