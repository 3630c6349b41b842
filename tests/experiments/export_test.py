"""Exported models run elsewhere, and answer as JAX does."""

import json
import re
import subprocess
import sys

import jax
import numpy as np
import pytest

import hrm_jax.solver
from data_pipelines.errors import ConfigError
from experiments import export
from experiments.configs import sudoku
from hrm_jax.inference import portable
from tests import builders

SYSTEMS = ('hrm', 'trm', 'trm_mlp', 'urm', 'recurrent_transformer', 'direct')
# What another program does with a file: it knows JAX and nothing of ours.
_ELSEWHERE = """
import pathlib, sys
import jax, numpy as np
for name in ('hrm_jax', 'experiments', 'data_pipelines'):
  sys.modules[name] = None
predict = jax.export.deserialize(
  bytearray(pathlib.Path('predict.stablehlo').read_bytes())
)
logits, q = predict.call(*np.load('tokens.npz').values())
np.savez('found.npz', answers=np.argmax(logits, -1), q=q)
"""


@pytest.fixture(scope='module')
def make_run(tmp_path_factory):
  """Trains a tiny run of a system for two steps; each one once."""
  made = {}

  def run(system, dtype='float32'):
    if (system, dtype) not in made:
      config = sudoku.get_config(f'demo,{system}')
      config.data.train = 'sudoku:box=2x2:count=20:tests=100'
      config.data.evaluate = config.data.train
      config.total_steps = config.checkpoint_every = 2
      config.evaluate_every = 0
      config.batch_size = config.evaluation.batch_size = 8
      config.model.hidden_size = config.model.puzzle_emb_ndim = 16
      config.model.num_heads = 2
      config.model.expansion = 1.0
      config.model.dtype = dtype
      if 'act' in config and system != 'direct':
        config.act.halt_max_steps = 3
      made[system, dtype] = tmp_path_factory.mktemp('runs') / system
      builders.train(config, made[system, dtype])
    return made[system, dtype]

  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('HRM_JAX_CACHE', str(tmp_path_factory.mktemp('cache')))
    yield run


@pytest.mark.slow
@pytest.mark.parametrize('system', SYSTEMS)
def test_onnx_gives_what_jax_gives(system, make_run, tmp_path, capsys):
  found = export.run(make_run(system), tmp_path)
  assert found.logits < 1e-3
  assert (found.answers, found.predicted) == (1, 1)
  assert found.puzzles == 100
  said = capsys.readouterr().out
  assert re.search(r'segment\.onnx: [\d.]+ MB, [\d.]+ ms for one puzzle', said)
  # The answers of the file, in a batch of another size, are those that
  # evaluations give.
  _, onnx, runtime = portable.onnx_tools()
  solver = hrm_jax.solver.load(make_run(system))
  asked = solver.held_out().queries[0]
  tokens = export.rows_of(solver, asked)
  session = runtime.InferenceSession(tmp_path / 'predict.onnx')
  told = json.loads((tmp_path / 'model.json').read_text())
  names = [*told['graphs']['predict']['inputs']]
  feed = {name: x[:3] for name, x in zip(names, tokens, strict=True)}
  logits, _ = session.run(None, feed)
  wanted = solver.predict(asked, 'fixed').found['tokens'][:3]
  np.testing.assert_array_equal(np.argmax(logits, -1), wanted)
  # What it is stands inside the file.
  made = onnx.load(tmp_path / 'segment.onnx')
  inside = {entry.key: entry.value for entry in made.metadata_props}
  assert inside['tokens'] == '?.1234'
  assert inside['step'] == '2'
  assert json.loads(inside['shape']) == [4, 4]
  shown = told['graphs']['segment']
  assert [x.name for x in made.graph.input] == [*shown['inputs']]
  assert [x.name for x in made.graph.output] == shown['outputs']


@pytest.mark.slow
@pytest.mark.parametrize('system', ['hrm', 'recurrent_transformer'])
def test_the_walk_gives_the_answers_of_a_trace(system, make_run, tmp_path):
  solver = hrm_jax.solver.load(make_run(system))
  export.run(make_run(system), tmp_path, walk=True, max_puzzles=1)
  _, _, runtime = portable.onnx_tools()
  session = runtime.InferenceSession(tmp_path / 'walk.onnx')
  told = json.loads((tmp_path / 'model.json').read_text())
  asked = solver.held_out(1, 1).queries[0]
  tokens = export.rows_of(solver, asked)
  shapes = told['graphs']['walk']['inputs']
  # As a stranger starts: from what the file says of the initial state.
  z = [
    np.broadcast_to(np.float32(start), (1, *shapes[name]['shape'][1:]))
    for name, start in told['initial_state'].items()
  ]
  (thought,) = solver.trace(asked)[0].thoughts
  for wanted in thought.tokens:
    *z, answers, _ = session.run(
      None, dict(zip(shapes, (*z, *tokens), strict=True))
    )
    assert len(answers) == len(told['updates'])
    np.testing.assert_array_equal(answers[:, 0], wanted)


@pytest.mark.slow
@pytest.mark.parametrize('system', ['recurrent_transformer', 'direct'])
def test_stablehlo_loads_without_this_package(system, make_run, tmp_path):
  found = export.run(make_run(system), tmp_path, 'stablehlo')
  assert (found.answers, found.predicted) == (1, 1)
  solver = hrm_jax.solver.load(make_run(system))
  asked = solver.held_out().queries[0]
  np.savez(tmp_path / 'tokens.npz', *export.rows_of(solver, asked))
  subprocess.run([sys.executable, '-c', _ELSEWHERE], cwd=tmp_path, check=True)
  with np.load(tmp_path / 'found.npz') as given:
    wanted = solver.predict(asked, 'fixed').found
    np.testing.assert_array_equal(given['answers'], wanted['tokens'])


@pytest.mark.slow
def test_float16_halves_the_file(make_run, tmp_path):
  sizes = []
  for weights in ('float32', 'float16'):
    out = tmp_path / weights
    found = export.run(
      make_run('recurrent_transformer'),
      out,
      'stablehlo',
      weights=weights,
      max_puzzles=2,
    )
    assert found.logits < 0.1
    sizes.append((out / 'segment.stablehlo').stat().st_size)
  # Beside the weights stand the operations, in bytecode.
  assert sizes[1] < 0.7 * sizes[0]


@pytest.mark.slow
def test_a_run_in_bfloat16_is_exported_in_float32(make_run, tmp_path):
  run = make_run('recurrent_transformer', 'bfloat16')
  found = export.run(run, tmp_path, 'stablehlo', max_puzzles=2)
  assert found.logits < 1e-3


@pytest.mark.slow
def test_weights_that_float16_cannot_hold_are_refused(make_run):
  solver = hrm_jax.solver.load(make_run('recurrent_transformer'))
  variables = solver.held_out(1, 1).queries[0].variables
  large = jax.tree.map(lambda x: x + 1e5, variables)
  portable.graphs(solver.model, large, 'float32', 1)
  with pytest.raises(ConfigError, match='float16 cannot hold'):
    portable.graphs(solver.model, large, 'float16', 1)


@pytest.mark.slow
def test_what_is_not_the_model_is_not_passed(make_run, tmp_path, monkeypatch):
  right = portable.graphs

  def wrong(model, variables, *rest):
    variables = jax.tree.map(lambda x: 1.1 * x, variables)
    return right(model, variables, *rest)

  monkeypatch.setattr(portable, 'graphs', wrong)
  found = export.run(make_run('recurrent_transformer'), tmp_path, 'stablehlo')
  assert found.logits > 1e-3
  assert not export.passes(found, 'float32')


def test_float16_may_differ_in_logits_but_not_in_answers():
  close = portable.Difference(0.01, 0.01, 0.01, 0.99, 1.0, 100, 2)
  assert export.passes(close, 'float16')
  assert not export.passes(close, 'float32')
  assert not export.passes(close._replace(answers=0.98), 'float16')
  assert not export.passes(close._replace(predicted=0.98), 'float16')


def test_where_onnx_cannot_be_written_one_line_says_how(monkeypatch):
  monkeypatch.setitem(sys.modules, 'jax2onnx', None)
  with pytest.raises(ConfigError, match='pip install --no-deps jax2onnx') as e:
    portable.onnx_tools()
  assert '\n' not in str(e.value)


@pytest.mark.slow
def test_an_operation_that_onnx_lacks_is_one_line(tmp_path):
  def run(x):
    return (jax.pure_callback(np.sin, x, x),)

  graph = portable.Graph(run, {'x': ((2,), 'float32')}, ('y',))
  with pytest.raises(ConfigError, match="'pure_callback'") as e:
    portable.write('segment', graph, {}, tmp_path / 'segment.onnx')
  assert 'use --format=stablehlo' in str(e.value)
  assert '\n' not in str(e.value)


@pytest.mark.slow
def test_rows_that_the_table_lacks_are_told(make_run, monkeypatch, tmp_path):
  lacking = ['<blank>x']
  load = hrm_jax.solver.load

  def other(*arguments):
    return hrm_jax.solver.dataclasses.replace(load(*arguments), names=lacking)

  monkeypatch.setattr(hrm_jax.solver, 'load', other)
  with pytest.raises(ConfigError, match='no embedding of'):
    export.run(make_run('recurrent_transformer'), tmp_path, 'stablehlo')
