"""Steps compiled for machines that are not there."""

import dataclasses
import functools
import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

from data_pipelines import puzzles
from data_pipelines.errors import ConfigError
from experiments import compile as command
from experiments.configs import sudoku
from experiments.planning import cost, targets
from hrm_jax.models.attention import dispatch as attention
from hrm_jax.training import step as train_step
from tests import builders

pytestmark = pytest.mark.slow

_ROOT = pathlib.Path(__file__).parents[2]
# Of the hub, but nothing is downloaded.
_SMALL = (
  '--config=experiments/configs/sudoku.py',
  '--config.model.hidden_size=64',
  '--config.model.num_heads=2',
  '--config.model.H_layers=1',
  '--config.model.L_layers=1',
  '--config.model.puzzle_emb_ndim=64',
  # An odd length, 83.
  '--config.model.puzzle_emb_len=2',
)
# On a TPU kernels would compute all, and how much of so small a step is theirs.
_ATTENTION = {'tpu': 'xla', 'gpu': 'auto', 'cpu': 'xla'}
# Bytes of a device's part of the puzzle table: far more than anything else has,
# so that it would show.
_IDENTIFIERS = 100_000
_TABLE = _IDENTIFIERS * 64 * 4


@functools.cache
def _compile(target, batch_size, devices=8):
  """Exit code, printed lines but the last, and the last one's fields."""
  environment = {**os.environ, 'HF_HUB_OFFLINE': '1'}
  # As at a user's: neither simulated devices nor a chosen platform.
  for name in ('XLA_FLAGS', 'JAX_PLATFORMS'):
    environment.pop(name, None)
  done = subprocess.run(
    [
      sys.executable, '-m', 'experiments.compile', *_SMALL,
      f'--target={target}', f'--config.batch_size={batch_size}',
      f'--config.model.attention={_ATTENTION[target[:3]]}',
      f'--puzzle_identifiers={_IDENTIFIERS * devices}',
    ],
    cwd=_ROOT, env=environment, capture_output=True, text=True, timeout=300,
    check=False,
  )  # fmt: skip
  assert done.stderr == ''
  *lines, last = done.stdout.splitlines()
  return done.returncode, lines, json.loads(last)


_EIGHT = [('tpu:v5e:2x4', 64), ('gpu:h100:8', 64), ('cpu:8', 64)]


@pytest.mark.parametrize('target, batch_size', _EIGHT)
def test_small_step_fits_and_is_accounted_for(target, batch_size):
  code, lines, fields = _compile(target, batch_size)
  assert code == 0
  assert fields['fits'] is True
  assert fields['devices'] == 8
  # The published set's 1000 puzzles, 20,000 times.
  assert fields['total_steps'] == 20_000 * 1000 // batch_size
  memory = fields['memory_bytes_per_device']
  assert _TABLE < memory['arguments'] < 1.1 * _TABLE
  assert memory['arguments'] <= fields['peak_bytes_per_device']
  assert fields['peak_bytes_per_device'] < memory['capacity']
  # Pointwise work counts too, and is much of so small a step.
  ratio = fields['flops_per_device'] / fields['ideal_flops_per_device']
  assert 1 <= ratio < 1.15
  assert fields['bytes_accessed_per_device'] > 0
  assert lines[0].startswith(target)
  assert ('attention by cudnn' in lines[0]) == target.startswith('gpu')
  assert fields['uncounted_operations'] == []


@pytest.mark.parametrize('target, batch_size', _EIGHT)
def test_gradients_cross_once_and_the_table_never(target, batch_size):
  _, _, fields = _compile(target, batch_size)
  exchanged = sum(fields['collective_bytes_per_device'].values())
  least = fields['minimum_collective_bytes_per_device']
  assert 0.4 * least < exchanged <= 1.15 * least
  # The dense gradients, in one piece.
  largest = fields['largest_collective_operand_bytes']
  assert largest <= least < _TABLE


def test_a_gpus_step_asks_cudnn_for_even_lengths_and_masks_what_is_beyond():
  config = builders.settings(sudoku.get_config('')).replace(
    {'batch_size': 4, 'model.puzzle_emb_len': 2}
  )
  target = targets.find('gpu:h100:2')
  model = attention.resolved(config.model, target.devices[0])
  config = dataclasses.replace(config, model=model)
  mesh = command.build.mesh(config, target.devices)
  setup = command.build.train_setup(config, puzzles.Shapes(11, 81, 9, 1000.0))
  text = train_step.trace(setup, mesh).lower().as_text()
  calls = [line for line in text.splitlines() if '@__cudnn$fmha' in line]
  assert any('@__cudnn$fmhaSoftmaxBackward' in line for line in calls)
  assert any('@__cudnn$fmhaSoftmax(' in line for line in calls)
  for line in calls:
    # A device's two rows of 83 tokens and one more.
    assert 'tensor<2x84x8x64xbf16>' in line
    assert re.search(r'mask_type.{1,10}PADDING', line)
  # Scores stand nowhere else.
  assert 'x83x83x' not in text
  assert 'x84x84x' not in text


def test_eight_times_the_chips_and_rows_cost_each_chip_no_more():
  _, _, few = _compile('tpu:v5e:2x4', 64)
  code, _, many = _compile('tpu:v5e:8x8', 512, devices=64)
  assert code == 0
  assert many['devices'] == 64
  assert many['flops_per_device'] == pytest.approx(
    few['flops_per_device'], rel=0.05
  )
  # It may take less: of a step this small the compiler keeps on the chip, at
  # times, all that is temporary.
  assert many['peak_bytes_per_device'] < 1.05 * few['peak_bytes_per_device']


def test_time_follows_from_the_figures():
  _, _, fields = _compile('tpu:v5e:2x4', 64)
  times = fields['seconds_per_step_at_full_rate']
  assert times['arithmetic'] == fields['flops_per_device'] / 197e12
  assert times['memory'] == fields['bytes_accessed_per_device'] / 819e9
  assert times['network'] == fields['sent_bytes_per_device'] / 200e9
  assert fields['roofline_seconds_per_step'] == times[fields['bound']]
  hours = fields['total_steps'] * times[fields['bound']] / 0.5 / 3600
  assert fields['projected_hours'] == pytest.approx(hours)
  # Of a CPU no rates are known.
  _, _, on_cpu = _compile('cpu:8', 64)
  assert on_cpu['projected_hours'] is None


def test_step_that_does_not_fit_is_told_with_what_would_help():
  code, lines, fields = _compile('tpu:v5e:2x4', 2_000_000)
  assert code == 1
  assert fields['fits'] is False
  assert fields['peak_bytes_per_device'] > 15.75 * 2**30
  text = '\n'.join(lines)
  assert 'Does not fit: a device of tpu:v5e:2x4 has 15.75 GiB' in text
  assert '--config.microbatches=2' in text
  assert '--largest_batch' in text
  assert 'Traceback' not in text


_MESSAGE = """RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used \
20.47G of 15.75G hbm. Exceeded hbm capacity by 4.72G.

Total hbm usage >= 20.73G:
    reserved        258.00M
"""


def test_work_that_is_not_known_stands_in_the_table():
  known = dict(
    fits=True, peak_bytes=1, compile_seconds=0.0, ideal_flops=1e12,
    least_collective_bytes=0,
  )  # fmt: skip
  found = cost.Cost(
    **known,
    flops=2e12,
    uncounted=('custom-call flash',),
    accessed_bytes=1e9,
    collective_bytes={},
  )
  text = dict(command._work_rows(found))
  assert text['arithmetic'] == '2 TFLOP, 2.00 × the ideal 1'
  assert 'custom-call flash' in text['not known']
  unread = cost.Cost(**known)
  ((_, text),) = command._work_rows(unread)
  assert text.startswith('not known: ')


def test_memory_needed_is_read_from_the_tpu_compilers_message():
  assert cost.needed_bytes(_MESSAGE) == int(20.47 * 2**30)


@pytest.mark.parametrize('most', [8, 100, 1000, 12_344])
def test_search_for_the_largest_batch(most, monkeypatch):
  """Against a memory that is not quite linear in the batch."""
  tried = []

  def of_step(setup, mesh, target):
    rows = setup.batch_size // 8
    tried.append(rows)
    size = target.hardware.memory * (0.1 + 0.9 * (rows / most) ** 1.1)
    fits = rows <= most
    return cost.Cost(fits, size if fits else 1.1 * size, 0.0)

  monkeypatch.setattr(cost, 'of_step', of_step)
  config = builders.settings(sudoku.get_config(''))
  target = targets.find('cpu:8')
  mesh = command.build.mesh(config, target.devices)
  shapes = puzzles.Shapes(11, 81, 1, 1000.0)
  setup, found = command.largest_batch(config, shapes, mesh, target)
  assert found.fits
  assert 31 / 32 * most - 1 <= setup.batch_size / 8 <= most
  assert len(tried) <= 10


def test_nothing_fits(monkeypatch):
  def of_step(setup, mesh, target):
    return cost.Cost(False, 10**15, 0.0)

  monkeypatch.setattr(cost, 'of_step', of_step)
  config = builders.settings(sudoku.get_config(''))
  target = targets.find('cpu:8')
  mesh = command.build.mesh(config, target.devices)
  shapes = puzzles.Shapes(11, 81, 1, 1000.0)
  setup, found = command.largest_batch(config, shapes, mesh, target)
  assert not found.fits
  assert setup.batch_size == 8


def test_a_step_runs_here_and_is_measured():
  config = sudoku.get_config('')
  config.model.update(
    {'hidden_size': 32, 'num_heads': 2, 'H_layers': 1, 'L_layers': 1}
  )
  config.batch_size = 16
  target = targets.find('here')
  mesh = command.build.mesh(builders.settings(config), target.devices)
  setup = command.build.train_setup(
    builders.settings(config), puzzles.Shapes(11, 81, 9, 1000.0)
  )
  found = cost.of_step(setup, mesh, target)
  run = cost.run(setup, mesh, found.compiled, seconds=0)
  assert run.steps == 1
  fields = command.report(setup, mesh, target, found, run)
  assert fields['devices'] == 8
  assert fields['device_kind'] == 'cpu'
  seconds = fields['measured_seconds_per_step']
  assert fields['projected_hours'] == setup.total_steps * seconds / 3600
  text = command._table(found, fields, hours=2.0)
  assert 'a step measured      ' in text
  assert 'as measured, evaluation not counted' in text
  # Of 9 identifiers the blank one is no puzzle's.
  steps = int(2 * 3600 / seconds)
  assert text.splitlines()[-1] == (
    f'in 2 hours           {steps:,} steps ({3600 / seconds:,.0f} an hour), '
    f'{steps * 16 / 8:.3g} rows of a batch for each puzzle identifier'
  )


@pytest.mark.parametrize(
  'name, message',
  [
    ('tpu', 'use e.g. tpu:v5e:2x4'),
    ('v5e:2x4', 'use e.g. tpu:v5e:2x4'),
    ('tpu:v9:2x2', 'use v4, v5e'),
    ('gpu:a100:8', 'gpu:h100:8'),
    ('gpu:h100:0', 'gpu:h100:8'),
    ('gpu:h100:12', 'use a multiple, e.g. gpu:h100:8'),
    ('cpu:', 'cpu:8'),
  ],
)
def test_unknown_target(name, message):
  with pytest.raises(ConfigError) as error:
    targets.find(name)
  assert message in str(error.value)
  assert f'--target={name}' in str(error.value)


@pytest.mark.parametrize(
  'name, module, extra',
  [
    ('tpu:v5e:2x4', 'libtpu', 'aot'),
    ('gpu:h100:8', 'jax_plugins', 'aot-gpu'),
    ('gpu:h100:8', 'nvidia.cudnn', 'aot-gpu'),
  ],
)
def test_missing_compiler_names_the_extra(name, module, extra, monkeypatch):
  find_spec = importlib.util.find_spec

  def without(name, package=None):
    return None if name.startswith(module) else find_spec(name, package)

  monkeypatch.setattr(importlib.util, 'find_spec', without)
  with pytest.raises(ConfigError, match=rf"pip install -e '\.\[{extra}\]'"):
    targets.find(name)


@pytest.mark.parametrize(
  'spec, cells, tokens, examples',
  [
    ('sudoku_extreme_1k', 81, 11, 1000),
    ('sudoku_extreme_full', 81, 11, 3_831_994),
    ('maze_30x30_hard_1k', 900, 6, 1000),
  ],
)
def test_sizes_of_the_hubs_sets_are_known(spec, cells, tokens, examples):
  shapes = puzzles.load_shapes(spec, spec, 30, 1000, 0)
  assert shapes == puzzles.Shapes(tokens, cells, 1, examples)


def test_shapes_of_what_is_at_hand_are_those_of_the_set():
  spec = 'sudoku:box=2x2:count=20:tests=10'
  shapes = puzzles.load_shapes(spec, spec, 30, 3, 0)
  loaded = puzzles.load_puzzles(spec, spec, 30, 3, 0)
  assert dataclasses.astuple(
    dataclasses.make_dataclass('S', shapes._fields)(*shapes)
  ) == (
    loaded.vocab_size,
    loaded.seq_len,
    loaded.num_identifiers,
    loaded.examples_per_pass,
  )
