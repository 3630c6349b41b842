"""CompressARC trains one network on one task and reads its answers meanwhile.

Arrays are padded to a few sizes, so that one program serves many tasks.
"""

import collections
import functools
import importlib.metadata
import itertools
import math
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from data_pipelines.arc.voting import Candidate
from hrm_jax.compressarc import loss, multitensor, network
from hrm_jax.compressarc.multitensor import Multi
from hrm_jax.compressarc.network import Answer, Latents, Weights
from hrm_jax.compressarc.problem import Problem

# Adam's rate, decays and least root.
_RATE, _DECAYS, _ROOT = 0.01, (0.5, 0.9), 1e-8
# Options of XLA by platform. On CPUs its older code generator compiles in two
# thirds of the time, and its library YNNPACK crashes with several tasks; other
# versions lack these. For TPUs it compiles in minutes instead of hours.
_OPTIONS: dict[str, dict[str, Any]] = {
  'tpu': {'exec_time_optimization_effort': -1.0}
}
if importlib.metadata.version('jaxlib').startswith('0.10.'):
  _OPTIONS['cpu'] = {
    'xla_cpu_use_fusion_emitters': False,
    'xla_cpu_experimental_ynn_fusion_type': '',
  }

# Grids of all test outputs, colours by value, row by row.
Grids = tuple[tuple[tuple[int, ...], ...], ...]


class State(NamedTuple):
  """Everything that a run of a task needs to go on."""

  latents: Latents
  weights: Weights
  moments: chex.Array  # [2, all parameters], Adam's
  powers: chex.Array  # [2], its decays to the power of the steps taken
  average: Answer  # of the test outputs


class Told(NamedTuple):
  """What one step tells, from before its update."""

  kl: Multi  # nats, [KINDS] of each part
  error: chex.Array  # reconstruction error, nats
  guesses: loss.Guess  # two candidates, stacked
  scores: chex.Array  # [2]


def initial(seed: int, problem: Problem, dtype: Any = np.float32) -> State:
  """Draws the weights and the latents of a task, on the host."""
  E, X, Y, _ = problem.target.shape
  C, tests = len(problem.colours), E - 1
  shape = (E, C, X + 1, Y + 2)
  channels = (network.LATENT_CHANNELS,)
  shapes = Multi(shape + channels, (*shape, multitensor.DIRECTIONS, *channels))
  random = np.random.default_rng(seed)

  def zeros(shape):
    return np.zeros(shape, dtype)

  def draw(shape):
    return np.asarray(0.01 * random.standard_normal(shape), dtype)

  mean = multitensor.parts(draw, shapes)
  capacity = zeros((multitensor.KINDS, *channels))
  latents = Latents(
    mean, multitensor.parts(zeros, shapes), Multi(capacity, capacity)
  )
  weights = network.initial_weights(random, dtype)
  average = Answer(
    zeros((tests, C, X, Y)), zeros((tests, X)), zeros((tests, Y))
  )
  count = sum(a.size for a in jax.tree.leaves((latents, weights)))
  ones = np.ones(2, dtype)
  return State(latents, weights, zeros((2, count)), ones, average)


class Gradient(NamedTuple):
  """What one forward and backward pass gives."""

  answer: Answer  # of all examples
  kl: Multi  # nats, [KINDS] of each part
  error: chex.Array  # reconstruction error, nats
  loss: chex.Array
  of: tuple[Latents, Weights]


def gradient(
  state: State, problem: Problem, noise: Multi, number: chex.Numeric,
  remat: bool = False,
) -> Gradient:  # fmt: skip
  """The gradient of a task's loss at step so and so; see `network.forward`."""
  dtype = state.weights.head.dtype
  grids = loss.inside(problem.shape, *problem.target.shape[1:3])
  scope = multitensor.frame(problem, grids.any(1).astype(dtype))

  def objective(trained: tuple[Latents, Weights]):
    answer, kl = network.forward(
      *trained, scope, problem.sizes[1], noise, remat
    )
    nats = sum(part.sum() for part in kl)
    value, error = loss.objective(answer, nats, problem, number)
    return value, (answer, kl, error)

  (value, told), found = jax.value_and_grad(objective, has_aux=True)(
    (state.latents, state.weights)
  )
  answer, kl, error = told
  return Gradient(answer, kl, error, value, found)


def _adam(
  gradient: chex.Array, state: State
) -> tuple[chex.Array, chex.Array, chex.Array]:
  """Adam's change, moments and powers of decays.

  XLA would raise decays to a power, as optax does, for each parameter anew.
  """
  decays = np.array(_DECAYS, gradient.dtype)
  squares = jnp.stack([gradient, gradient * gradient])
  moments = squares + decays[:, None] * (state.moments - squares)
  powers = state.powers * decays
  first, second = moments / (1 - powers)[:, None]
  return -_RATE * first / (jnp.sqrt(second) + _ROOT), moments, powers


def update(
  state: State, problem: Problem, found: Gradient, number: chex.Numeric
) -> tuple[State, Told]:
  """Two candidates, and one update."""
  trained, unravel = ravel_pytree((state.latents, state.weights))
  change, moments, powers = _adam(ravel_pytree(found.of)[0], state)
  latents, weights = unravel(trained + change)
  # Outputs of the examples behind the demonstrations, as far as there may be.
  place = problem.demonstrations + jnp.arange(len(state.average.logits))
  tests = jax.tree.map(
    lambda a: jnp.take(a[..., 1], place, axis=0, mode='clip'), found.answer
  )
  average = loss.average(state.average, tests)
  guesses = [loss.guess(one, problem) for one in (tests, average)]
  both = jax.tree.map(lambda *two: jnp.stack(two), *guesses)
  scores = loss.score(both.uncertainty, number)
  state = State(latents, weights, moments, powers, average)
  return state, Told(found.kl, found.error, both, scores)


def step(
  state: State, problem: Problem, noise: Multi, number: chex.Numeric,
  remat: bool = False,
) -> tuple[State, Told]:  # fmt: skip
  """Step so and so of a task: a forward pass, two candidates, one update."""
  found = gradient(state, problem, noise, number, remat)
  return update(state, problem, found, number)


def steps(
  states: State, problems: Problem, key: chex.PRNGKey, taken: chex.Array,
  count: int,
) -> tuple[State, Told]:  # fmt: skip
  """So many steps of several tasks; all have a first axis of the tasks.

  Args:
    states: as they are after the steps that were taken.
    problems: tasks of one size.
    key: key of the noise, which is the same for all of the tasks.
    taken: [tasks], number of steps that each has behind it.
    count: number of steps.

  Returns:
    The states, and what the steps tell, stacked: [count, tasks, ...].
  """
  program = compiled_for(jax.default_backend())
  return program(states, problems, key, taken, count)


@functools.cache
def compiled_for(platform: str) -> Any:
  """`steps` as a jitted function, for devices of a platform.

  TPUs lay arrays out in tiles of 128 by 8, of which a few channels leave most
  empty: their memory is too small for what the layers compute.
  """
  return jax.jit(
    functools.partial(_steps, remat=platform == 'tpu'),
    static_argnames='count', donate_argnums=0,
    compiler_options=_OPTIONS.get(platform),
  )  # fmt: skip


def _steps(states, problems, key, taken, count, *, remat):
  def one(state, problem, number):
    keys = jax.random.split(jax.random.fold_in(key, number))

    def draw(key, like):
      # As one row: loops over the short last axes would take ten times as long.
      row = jax.random.normal(key, (like.size,), like.dtype)
      return row.reshape(like.shape)

    noise = multitensor.parts(draw, Multi(*keys), state.latents.mean)
    return step(state, problem, noise, number, remat)

  def every(states, more):
    return jax.vmap(one)(states, problems, taken + more)

  with jax.default_matmul_precision('float32'):
    return jax.lax.scan(every, states, jnp.arange(count))


class Ranking:
  """The two guesses, and all candidates with their scores."""

  def __init__(self):
    self.scores = collections.defaultdict[Grids, float](lambda: -math.inf)
    self.counts = collections.Counter[Grids]()
    self.first: Grids | None = None
    self.second: Grids | None = None

  def add(self, grids: Grids, score: float) -> None:
    """Takes in a candidate of a step."""
    self.scores[grids] = float(np.logaddexp(self.scores[grids], score))
    self.counts[grids] += 1
    if self.first is None or self.second is None:
      self.first = self.second = grids
      return
    reached = self.scores[grids]
    if grids == self.first or reached < self.scores[self.second]:
      return
    self.second = grids
    if reached >= self.scores[self.first]:
      self.first, self.second = grids, self.first

  def guesses(self) -> list[Grids]:
    """The two guesses, if any candidate was seen."""
    return [x for x in (self.first, self.second) if x is not None]

  def best(self) -> list[Grids]:
    """All candidates, the best one first."""
    return sorted(self.scores, key=lambda grids: -self.scores[grids])

  def candidates(self, test: int, at_most: int) -> list[Candidate]:
    """The two guesses and then the best others, for one test input.

    Votes are how often each was seen, and confidence is its share of the sum of
    all scores, which are logarithms.
    """
    ranked = dict.fromkeys((*self.guesses(), *self.best()))
    whole = float(np.logaddexp.reduce([*self.scores.values()] or [0.0]))
    return [
      Candidate(
        np.array(grids[test], np.uint8), self.counts[grids],
        math.exp(self.scores[grids] - whole),
      )
      for grids in itertools.islice(ranked, at_most)
    ]  # fmt: skip

  def record(self) -> dict[str, Any]:
    """All of it, as JSON takes it."""
    order = [*self.scores]
    return {
      'candidates': [[x, self.scores[x], self.counts[x]] for x in order],
      'guesses': [order.index(x) for x in self.guesses()],
    }

  @classmethod
  def of(cls, record: dict[str, Any]) -> 'Ranking':
    """The inverse of `record`."""
    found, order = cls(), list[Grids]()
    for grids, score, count in record['candidates']:
      order.append(tuple(tuple(map(tuple, grid)) for grid in grids))
      found.scores[order[-1]], found.counts[order[-1]] = score, count
    if record['guesses']:
      found.first, found.second = (order[i] for i in record['guesses'])
    return found


def candidates(told: Told, problem: Problem) -> list[tuple[Grids, float]]:
  """The candidates of some steps with their scores, in order."""
  count = int(problem.sizes[0] - problem.demonstrations)
  guesses, found = told.guesses, []
  for at in np.ndindex(*told.scores.shape):
    grids = tuple(
      tuple(map(tuple, problem.colours[grid[:height, :width]].tolist()))
      for grid, (height, width) in zip(
        guesses.grids[at][:count], guesses.shape[at][:count], strict=True
      )
    )
    found.append((grids, float(told.scores[at])))
  return found
