"""A trained model as functions with its weights inside, for other programs.

They are written as ONNX, which many runtimes and browsers run, or as StableHLO,
which `jax.export.deserialize` loads without this package. All arithmetic is in
float32, whatever the run computed in; the weights may be stored in float16.
"""

import dataclasses
import json
import logging
import pathlib
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from data_pipelines.errors import ConfigError
from hrm_jax.models import ReasoningModel

# Takes and gives the arrays of a graph, in the order of its names.
Run = Callable[..., Sequence[chex.Array]]
# Shape without the batch, and type, by name.
Arrays = dict[str, tuple[tuple[int, ...], str]]
# Without what jax2onnx asks for: an older orbax-checkpoint, among others.
INSTALL = (
  'pip install --no-deps jax2onnx==0.17.1 onnx onnx-ir onnxruntime sympy mpmath'
)
FORMATS = ('onnx', 'stablehlo')


class Graph(NamedTuple):
  """A function to export; every array has the batch B as an axis.

  Attributes:
    run: the function itself, pure.
    inputs: shape without the batch, its first axis, and type, by name.
    outputs: names of what it returns.
  """

  run: Run
  inputs: Arrays
  outputs: tuple[str, ...]


def in_float32(model: ReasoningModel) -> ReasoningModel:
  """The same model, which computes everything in float32."""
  return model.clone(
    settings=dataclasses.replace(
      model.settings, dtype='float32', filter_dtype='float32'
    )
  )


def graphs(
  model: ReasoningModel, variables: Any, weights: str, segments: int
) -> dict[str, Graph]:
  """The functions that can be exported, by name.

  `segment` takes the state, the tokens `inputs` [B, S] and, where the model has
  one, the puzzle's row `puzzles` [B, E]. It gives the state after one segment,
  `logits` [B, S, V] and `q` [B, 2], (q_halt, q_continue). `predict` starts from
  the initial state, runs so many segments, and gives the last `logits` and `q`.
  `walk` is a segment that gives, in place of the logits, `answers` [updates, B,
  S], the tokens after each update (see `ReasoningModel.walk`).

  Args:
    model: the model of the run.
    variables: its variables.
    weights: type in which they are stored, 'float32' or 'float16'.
    segments: number of segments of `predict`.

  Raises:
    ConfigError: a weight is too large for that type.
  """
  model = in_float32(model)
  # Its other ways of attention are for one platform each.
  settings = dataclasses.replace(model.settings, attention='xla')
  model = model.clone(settings=settings)
  stored = jax.tree.map(lambda x: np.asarray(x.astype(weights)), variables)
  if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(stored)):
    raise ConfigError(
      f'{weights} cannot hold a weight of this model; use --weights=float32'
    )
  state: Any = model.apply(variables, 1, method='initial_state')
  row: Arrays = {'puzzles': ((settings.puzzle_emb_ndim,), 'float32')}
  tokens: Arrays = {'inputs': ((model.seq_len,), 'int32')}
  tokens |= row if settings.prefix_len else {}
  states: Arrays = {
    name: (leaf.shape[1:], 'float32') for name, leaf in state._asdict().items()
  }

  after = [f'{name}_after' for name in states]

  def start(inputs, puzzles=None):
    loaded = jax.tree.map(lambda x: jnp.asarray(x).astype('float32'), stored)

    def call(method, *arrays):
      return model.apply(loaded, *arrays, method=method)

    return call, call('embed', inputs, puzzles)

  def segment(*arrays):
    call, x = start(*arrays[len(states) :])
    z = type(state)(*arrays[: len(states)])
    z = call('segment_without_gradient', z, x)
    return *z, *call('heads', z)

  def predict(*arrays):
    call, x = start(*arrays)

    def one(z, _):
      return call('segment_without_gradient', z, x), None

    z = call('initial_state', x.shape[0])
    return call('heads', jax.lax.scan(one, z, length=segments)[0])

  def walk(*arrays):
    call, x = start(*arrays[len(states) :])

    def look(before, after, answering):
      logits, _ = call('heads', answering)
      return jnp.argmax(logits, axis=-1).astype(jnp.int32)

    z = type(state)(*arrays[: len(states)])
    z, answers = call('walk', z, x, look)
    return *z, answers, call('heads', z)[1]

  return {
    'segment': Graph(segment, states | tokens, (*after, 'logits', 'q')),
    'predict': Graph(predict, tokens, ('logits', 'q')),
    'walk': Graph(walk, states | tokens, (*after, 'answers', 'q')),
  }


def write(
  name: str, graph: Graph, facts: dict[str, Any], path: pathlib.Path
) -> Run:
  """Writes a graph as its file's suffix says; returns what runs the file.

  Raises:
    ConfigError: what writes ONNX is not installed, or does not know an
      operation of this model.
  """
  if path.suffix == '.stablehlo':
    return _write_stablehlo(graph, path)
  return _write_onnx(name, graph, facts, path)


def _write_stablehlo(graph: Graph, path: pathlib.Path) -> Run:
  (batch,) = jax.export.symbolic_shape('B')
  arrays = [
    jax.ShapeDtypeStruct((batch, *shape), dtype)
    for shape, dtype in graph.inputs.values()
  ]
  # Their compilers take it from here, wherever they are.
  exporter = jax.export.export(
    jax.jit(graph.run), platforms=('cpu', 'cuda', 'tpu')
  )
  path.write_bytes(exporter(*arrays).serialize())
  return jax.jit(jax.export.deserialize(bytearray(path.read_bytes())).call)


def onnx_tools() -> tuple[Any, Any, Any]:
  """The packages jax2onnx, onnx and onnxruntime.

  Raises:
    ConfigError: they are not installed; the message tells how they are.
  """
  # Its examples, all of which it imports, need packages that it can do without.
  modules: dict[str, Any] = sys.modules
  modules.setdefault('jax2onnx.plugins.examples', None)
  logging.getLogger('jax2onnx').setLevel(logging.ERROR)
  logging.getLogger('onnx_ir').setLevel(logging.ERROR)
  try:
    import jax2onnx
    import onnx
    import onnxruntime
  except ImportError as error:
    raise ConfigError(
      f'ONNX cannot be written here ({error}); use: {INSTALL}'
    ) from None
  return jax2onnx, onnx, onnxruntime


def _write_onnx(
  name: str, graph: Graph, facts: dict[str, Any], path: pathlib.Path
) -> Run:
  jax2onnx, onnx, onnxruntime = onnx_tools()
  try:
    with warnings.catch_warnings():
      warnings.simplefilter('ignore')
      made = jax2onnx.to_onnx(
        graph.run,
        [
          jax.ShapeDtypeStruct(('B', *shape), dtype)
          for shape, dtype in graph.inputs.values()
        ],
        model_name=name,
        input_names=[*graph.inputs],
        output_names=[*graph.outputs],
      )
  except NotImplementedError as error:
    raise ConfigError(
      f'jax2onnx does not know an operation of this model ({error}); use '
      '--format=stablehlo'
    ) from None
  made.producer_name = 'hrm_jax'
  texts = {
    key: value if isinstance(value, str) else json.dumps(value)
    for key, value in facts.items()
  }
  onnx.helper.set_model_props(made, texts)
  onnx.save(made, path)
  options = onnxruntime.SessionOptions()
  options.log_severity_level = 3
  session = onnxruntime.InferenceSession(
    path, options, providers=['CPUExecutionProvider']
  )

  def run(*arrays):
    feed = zip(graph.inputs, map(np.asarray, arrays), strict=True)
    return session.run(None, dict(feed))

  return run


def milliseconds(graph: Graph, run: Run, times: int = 5) -> float:
  """The median time that an exported graph takes for one puzzle."""
  arrays = [
    np.zeros((1, *shape), dtype) for shape, dtype in graph.inputs.values()
  ]
  taken = list[float]()
  for _ in range(times + 1):
    begin = time.perf_counter()
    jax.block_until_ready(run(*arrays))
    taken.append(1e3 * (time.perf_counter() - begin))
  # The first one compiles, or makes room.
  return float(np.median(taken[1:]))


class Difference(NamedTuple):
  """How an exported model differs from the model itself, over puzzles.

  Attributes:
    states: largest difference of a state after a segment, each segment being
      started from the state that JAX gives.
    logits: the same of the logits.
    q: the same of the Q values.
    answers: fraction of whole answers that are equal, all segments being those
      of the exported model, after each of them.
    predicted: the same of the answers of `predict`, where that was run.
    puzzles: number of puzzles.
    segments: number of segments.
  """

  states: float
  logits: float
  q: float
  answers: float
  predicted: float
  puzzles: int
  segments: int

  def __str__(self) -> str:
    return (
      f'{self.puzzles} puzzles, {self.segments} segments: states within '
      f'{self.states:.2g}, logits within {self.logits:.2g}, q within '
      f'{self.q:.2g}; {self.answers:.2%} of the answers equal, '
      f'{self.predicted:.2%} of those of predict'
    )


def compare(
  model: ReasoningModel,
  variables: Any,
  tokens: Sequence[np.ndarray],
  segments: int,
  runs: dict[str, Run],
  batch_size: int,
) -> Difference:
  """Runs exported graphs beside the model, in float32 and with its own weights.

  `tokens` are what `predict` takes of all puzzles: inputs and, where the model
  has them, their rows.
  """
  model = in_float32(model)
  # On one device, as the exported one; initial states may be in bfloat16.
  variables = jax.tree.map(lambda x: np.asarray(x, np.float32), variables)

  @jax.jit
  def segment(z, inputs, puzzles=None):
    x = model.apply(variables, inputs, puzzles, method='embed')
    z = model.apply(variables, z, x, method='segment_without_gradient')
    return z, model.apply(variables, z, method='heads')

  worst, equal, last = np.zeros(3), list[np.ndarray](), list[np.ndarray]()
  count = len(tokens[0])
  for begin in range(0, count, batch_size):
    some = [array[begin : begin + batch_size] for array in tokens]
    z = free = model.apply(variables, len(some[0]), method='initial_state')
    for _ in range(segments):
      found = [np.asarray(x) for x in runs['segment'](*z, *some)]
      free = runs['segment'](*free, *some)
      z, heads = segment(z, *some)
      gaps = [
        np.max(np.abs(ours - theirs))
        for ours, theirs in zip((*z, *heads), found, strict=True)
      ]
      worst = np.maximum(worst, [max(gaps[:-2]), *gaps[-2:]])
      answers = np.argmax(heads[0], -1)
      equal.append((np.argmax(free[-2], -1) == answers).all(-1))
      free = free[:-2]
    if 'predict' in runs:
      at_once = np.argmax(runs['predict'](*some)[0], -1)
      last.append((at_once == answers).all(-1))
  states, logits, q = worst.tolist()
  answered, predicted = (
    float(np.mean(np.concatenate(x))) for x in (equal, last or equal)
  )
  return Difference(states, logits, q, answered, predicted, count, segments)
