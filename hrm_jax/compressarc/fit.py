"""CompressARC trains one network on one task and reads its answers meanwhile.

Arrays are padded to a few sizes, so that one program serves many tasks.
"""

import collections
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from data_pipelines.arc.tasks import Task
from hrm_jax.compressarc import loss, multitensor, network
from hrm_jax.compressarc.multitensor import Multi
from hrm_jax.compressarc.network import Answer, Latents, Weights
from hrm_jax.compressarc.problem import Problem, pad, prepare

# Steps of one call of the device.
_STEPS = 25
_OPTIMIZER = optax.flatten(optax.adam(0.01, b1=0.5, b2=0.9, eps=1e-8))
# What E, C, X and Y are rounded up to.
_ROUND = (2, 3, 3, 3)

# Grids of all test outputs, colours by value, row by row.
Grids = tuple[tuple[tuple[int, ...], ...], ...]


class State(NamedTuple):
  """Everything that a run of a task needs to go on."""

  latents: Latents
  weights: Weights
  optimizer: Any
  average: Answer  # of the test outputs
  step: chex.Array


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
  moments = jax.eval_shape(_OPTIMIZER.init, (latents, weights))
  optimizer = jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), moments)
  return State(latents, weights, optimizer, average, np.int32(0))


def step(state: State, problem: Problem, noise: Multi) -> tuple[State, Told]:
  """One step of a task: a forward pass, two candidates, one update."""
  dtype = state.weights.head.dtype
  grids = loss.inside(problem.shape, *problem.target.shape[1:3])
  scope = multitensor.frame(problem, grids.any(1).astype(dtype))

  def objective(trained: tuple[Latents, Weights]):
    answer, kl = network.forward(*trained, scope, problem.sizes[1], noise)
    nats = sum(part.sum() for part in kl)
    value, error = loss.objective(answer, nats, problem, state.step)
    return value, (answer, kl, error)

  trained = state.latents, state.weights
  (_, (answer, kl, error)), gradient = jax.value_and_grad(
    objective, has_aux=True
  )(trained)
  updates, optimizer = _OPTIMIZER.update(gradient, state.optimizer)
  latents, weights = optax.apply_updates(trained, updates)
  # Outputs of the examples behind the demonstrations, as far as there may be.
  place = problem.demonstrations + jnp.arange(len(state.average.logits))
  tests = jax.tree.map(
    lambda a: jnp.take(a[..., 1], place, axis=0, mode='clip'), answer
  )
  average = loss.average(state.average, tests)
  guesses = [loss.guess(one, problem) for one in (tests, average)]
  both = jax.tree.map(lambda *two: jnp.stack(two), *guesses)
  scores = loss.score(both.uncertainty, state.step)
  state = State(latents, weights, optimizer, average, state.step + 1)
  return state, Told(kl, error, both, scores)


@functools.partial(jax.jit, static_argnames='count', donate_argnums=0)
def steps(
  state: State, problem: Problem, key: chex.PRNGKey, count: int
) -> tuple[State, Told]:
  """So many steps; what they tell is stacked."""

  def one(state, _):
    keys = jax.random.split(jax.random.fold_in(key, state.step))
    noise = multitensor.parts(
      lambda key, like: jax.random.normal(key, like.shape, like.dtype),
      Multi(*keys), state.latents.mean,
    )  # fmt: skip
    return step(state, problem, noise)

  with jax.default_matmul_precision('float32'):
    return jax.lax.scan(one, state, length=count)


class Ranking:
  """The two guesses, and all candidates with their scores."""

  def __init__(self):
    self.scores = collections.defaultdict[Grids, float](lambda: -math.inf)
    self.first: Grids | None = None
    self.second: Grids | None = None

  def add(self, grids: Grids, score: float) -> None:
    """Takes in a candidate of a step."""
    self.scores[grids] = float(np.logaddexp(self.scores[grids], score))
    if self.first is None or self.second is None:
      self.first = self.second = grids
      return
    reached = self.scores[grids]
    if grids == self.first or reached < self.scores[self.second]:
      return
    self.second = grids
    if reached >= self.scores[self.first]:
      self.first, self.second = grids, self.first

  def best(self) -> list[Grids]:
    """All candidates, the best one first."""
    return sorted(self.scores, key=lambda grids: -self.scores[grids])


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


class Compressed(NamedTuple):
  """What a network that was trained on one task alone says of it.

  Attributes:
    attempts: two attempts at each test output, uint8 grids.
    kl: nats that each of the 18 tensors tells, by its letters, at the end.
    error: reconstruction error in nats, at the end.
    ranking: every candidate that was seen.
  """

  attempts: list[tuple[np.ndarray, np.ndarray]]
  kl: dict[str, float]
  error: float
  ranking: Ranking


def compress(
  task: Task,
  num_steps: int = 2000,
  seed: int = 0,
  progress: Callable[[int, Compressed], None] | None = None,
) -> Compressed:
  """Solves a task by a network that is trained on it alone.

  Args:
    task: its test outputs are not read.
    num_steps: optimizer steps.
    seed: seed of the weights and of the noise.
    progress: called with the steps done and what is known, now and then.
  """
  problem, sizes = prepare(task), []
  for size, unit in zip(problem.sizes, _ROUND, strict=True):
    sizes.append(-(-max(size, 1) // unit) * unit)
  problem = pad(problem, tuple(sizes))
  key = jax.random.key(seed)
  state, ranking = initial(seed, problem), Ranking()
  done = 0
  while done < num_steps:
    count = min(_STEPS, num_steps - done)
    state, told = steps(state, problem, jax.random.fold_in(key, 1), count)
    told = jax.device_get(told)
    done += count
    for grids, score in candidates(told, problem):
      ranking.add(grids, score)
    found = _compressed(told, ranking)
    if progress:
      progress(done, found)
  return found


def _compressed(told: Told, ranking: Ranking) -> Compressed:
  both = [
    [np.array(grid, np.uint8) for grid in grids or ()]
    for grids in (ranking.first, ranking.second)
  ]
  kl = {
    letters: float(getattr(told.kl, part)[-1, kind])
    for letters, (part, kind) in multitensor.tensors().items()
  }
  attempts = list(zip(*both, strict=True))
  return Compressed(attempts, kl, float(told.error[-1]), ranking)
