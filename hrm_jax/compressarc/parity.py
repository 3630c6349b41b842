"""CompressARC compared with golden files of the published code, in float64.

After one step float32 runs part from each other: it is compared there alone.
Tasks are padded, as they are when they are solved. What the files say of the
stages inside of a layer tells where an error begins, and is not compared.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines.arc.tasks import parse_task
from hrm_jax.compressarc import fit, loss, multitensor, published
from hrm_jax.compressarc.fit import Grids, Ranking, Told
from hrm_jax.compressarc.network import Answer
from hrm_jax.compressarc.problem import pad, prepare

# Greatest ‖a − b‖ / ‖b‖, of scores |a − b|, of guesses how many differ.
TOLERANCES = {
  'logits and masks': 2e-6,
  'KL and losses': 2e-6,
  'gradients': 2e-6,
  'displacement': 1e-3,
  'scores': 1e-6,
  'guesses': 0.0,
  'float32 logits and masks': 1e-5,
  'float32 KL and losses': 2e-6,
  'float32 gradients': 5e-4,
}
# A key of files that have the two guesses alone.
ONLY_GUESSES = 'known/task'
# What has no gradient but for rounding goes where rounding leads it.
_NO_GRADIENT = 1e-5
# Of masks, where no grid can be.
_OUTSIDE = -900

Take = Callable[[str], Any]
Record = Callable[[str, str, float], None]


def replay(
  config: Mapping[str, Any],
  take: Take,
  record: Record,
  sizes: tuple[int, int, int, int] = (0, 0, 0, 0),
) -> None:
  """Replays a golden file.

  Args:
    config: the file's own; empty where it has the guesses alone.
    take: gives an array of the file.
    record: takes the group, the key and the size of an error.
    sizes: least E, C, X and Y of the padded arrays.
  """
  with jax.enable_x64(True):
    if config:
      _replay_steps(config, take, record, sizes)
    else:
      for name in ('known', 'free'):
        _replay_guesses(name, take, record)


# A golden file's numbers of a forward pass, in the order of `_numbers`.
_ANSWER = ('logits', 'x_mask', 'y_mask')
_LOSSES = ('kl', 'total_kl', 'reconstruction_error', 'loss')


@jax.jit
def _step(state, problem, noise, number):
  found = fit.gradient(state, problem, noise, number)
  return found, fit.update(state, problem, found, number)


def _replay_steps(config, take, record, sizes):
  task, told = (json.loads(str(take(x))) for x in ('task', 'candidates'))
  problem = prepare(parse_task('golden', task, 'golden'))
  real = tuple(map(int, problem.sizes))
  E, C, X, Y = (max(pair) for pair in zip(real, sizes, strict=True))
  problem = pad(problem, (E, C, X, Y))
  shapes = {array: tuple(shape) for array, shape in config['names']}
  ends = np.cumsum([np.prod(shape, dtype=int) for shape in shapes.values()])

  def arrays(flat):
    parts = np.split(flat, ends[:-1])
    both = zip(shapes.items(), parts, strict=True)
    return {array: part.reshape(shape) for (array, shape), part in both}

  def flat(latents, weights):
    found = published.read(latents, weights, shapes, real)
    return np.concatenate([found[array].ravel() for array in shapes])

  def begin(dtype):
    state = fit.initial(0, problem, dtype)
    latents, weights = jax.tree.map(np.array, (state.latents, state.weights))
    published.write(arrays(start), latents, weights, real)
    return state._replace(latents=latents, weights=weights)

  def step(state, i):
    like = jax.tree.map(np.asarray, state.latents.mean)
    draws = published.noise(noise[i].astype(like.n.dtype), like, real)
    return jax.device_get(_step(state, problem, draws, first + i))

  def compare(kind, key, ours, golden):
    group = kind + ('logits and masks' if key in _ANSWER else 'KL and losses')
    record(group, key, _distance(ours, golden))

  start, wanted, noise = (
    take(key).astype(np.float64) for key in ('param', 'param_final', 'noise')
  )
  of_loss = take('grad0').astype(np.float64)
  golden = {key: take(key) for key in (*_ANSWER, *_LOSSES)}
  scores, sums = _Scores(take, record), take('accumulated')
  first = config['first_step']
  state, ranking = begin(np.float64), Ranking()
  for i in range(len(noise)):
    found, (state, seen) = step(state, i)
    for key, ours in _numbers(found, real).items():
      compare('', key, ours, golden[key][i])
    if not i:
      record('gradients', 'grad0', _distance(flat(*found.of), of_loss))
    for place, (grids, score) in enumerate(fit.candidates(seen, problem)):
      same = told['solutions'][i][place] == _listed(grids)
      record('guesses', f'candidates of step {i}', float(not same))
      scores.compare(i, place, score, seen)
      ranking.add(grids, score)
    for place, guess in enumerate(ranking.guesses()):
      name = ('first', 'second')[place]
      same = told[name][i] == _listed(guess)
      record('guesses', f'{name} guess of step {i}', float(not same))
      error = abs(ranking.scores[guess] - sums[i][place])
      record('scores', 'accumulated', float(error))
  moved = flat(*jax.tree.map(np.asarray, (state.latents, state.weights)))
  sure = np.concatenate(
    [
      np.full(part.size, np.linalg.norm(part) > _NO_GRADIENT)
      for part in arrays(of_loss).values()
    ]
  )
  error = _distance((moved - start)[sure], (wanted - start)[sure])
  record('displacement', 'param_final', error)

  found, _ = step(begin(np.float32), 0)
  for key, ours in _numbers(found, real).items():
    compare('float32 ', key, ours, take(f'float32/{key}'))
  error = _distance(flat(*found.of), of_loss)
  record('float32 gradients', 'grad0', error)
  for key in ('stage_rms', 'stage_last', 'float32/grad0_error'):
    take(key)


class _Scores:
  """Scores of candidates, and what they come from."""

  def __init__(self, take: Take, record: Record):
    self._record = record
    self._golden = {key: take(key) for key in ('score', 'uncertainty')}

  def compare(self, i: int, place: int, score: float, told: Told) -> None:
    unsure = float(told.guesses.uncertainty[place])
    for key, ours in (('score', score), ('uncertainty', unsure)):
      error = abs(ours - self._golden[key][i][place])
      self._record('scores', key, float(error))


def _numbers(found: fit.Gradient, real: tuple[int, ...]) -> dict[str, Any]:
  """What a forward pass says, without padding, by the published names."""
  E, C, X, Y = real
  kl = [
    getattr(found.kl, part)[kind]
    for part, kind in multitensor.tensors().values()
  ]
  answer = found.answer
  return {
    'logits': answer.logits[:E, : C + 1, :X, :Y],
    'x_mask': answer.rows[:E, :X],
    'y_mask': answer.columns[:E, :Y],
    'kl': kl,
    'total_kl': np.sum(kl),
    'reconstruction_error': found.error,
    'loss': found.loss,
  }


def _distance(ours: Any, golden: Any) -> float:
  """‖ours − golden‖ / ‖golden‖, but where no grid can be."""
  golden = np.asarray(golden, np.float64)
  there = golden > _OUTSIDE
  ours = np.asarray(ours, np.float64)[there]
  golden = golden[there]
  return float(np.linalg.norm(ours - golden) / np.linalg.norm(golden))


def _listed(grids: Grids) -> Any:
  """As JSON has them."""
  return json.loads(json.dumps(grids))


def _replay_guesses(name, take, record):
  """The two guesses alone, from what the network is told to have said."""

  def of(key):
    return take(f'{name}/{key}')

  problem = prepare(parse_task('golden', json.loads(str(of('task'))), name))
  # These masks have nothing taken off where no grid can be.
  problem.shape[:, 0] = problem.sizes[2:]
  known = json.loads(str(of('grids')))
  said = Answer(*(of(key).astype(float) for key in _ANSWER))
  candidate, first, second = map(of, ('candidate', 'first', 'second'))
  scores, sums, ranking = _Scores(of, record), of('accumulated'), Ranking()

  @jax.jit
  def both(average, now, step):
    average = loss.average(average, now)
    found = [loss.guess(one, problem) for one in (now, average)]
    guesses = jax.tree.map(lambda *two: jnp.stack(two), *found)
    scores = loss.score(guesses.uncertainty, step)
    nothing: Any = None
    return average, Told(nothing, nothing, guesses, scores)

  average = jax.tree.map(lambda a: np.zeros(a.shape[1:]), said)
  for i in range(len(said.logits)):
    now = jax.tree.map(lambda a, i=i: a[i], said)
    average, told = jax.device_get(both(average, now, i))
    for place, (grids, score) in enumerate(fit.candidates(told, problem)):
      same = _listed(grids) == known[candidate[i][place]]
      record('guesses', f'{name}/candidate', float(not same))
      scores.compare(i, place, score, told)
      ranking.add(grids, score)
    for place, guess in enumerate(ranking.guesses()):
      same = _listed(guess) == known[(first, second)[place][i]]
      record('guesses', f'{name}/{("first", "second")[place]}', float(not same))
      error = abs(ranking.scores[guess] - sums[i][place])
      record('scores', f'{name}/accumulated', float(error))
  # Of equal scores the order is open.
  scored = {str(_listed(grids)): x for grids, x in ranking.scores.items()}
  rank, golden = of('rank'), of('rank_score')
  record('guesses', f'{name}/rank', abs(len(rank) - len(scored)))
  for which, score in zip(rank, golden, strict=True):
    error = abs(scored.get(str(known[which]), np.inf) - score)
    record('scores', f'{name}/rank_score', float(error))
