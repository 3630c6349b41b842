"""The published code's numbers, of tasks padded to one size.

So that is proved too that padding changes nothing.
"""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines.arc.tasks import parse_task
from hrm_jax.compressarc import fit, loss, multitensor, published
from hrm_jax.compressarc.network import Answer
from hrm_jax.compressarc.problem import pad, prepare

_GOLDEN = pathlib.Path(__file__).parents[2] / 'golden' / 'compressarc'
# E, C, X and Y that hold all three tasks.
_SIZES = (8, 5, 3, 6)


@pytest.fixture(scope='module')
def step():
  with jax.enable_x64(True):
    yield jax.jit(fit.step)


def _distance(ours, golden):
  golden = np.asarray(golden, np.float64)
  return np.linalg.norm(np.asarray(ours) - golden) / np.linalg.norm(golden)


def _grids(grids):
  """As JSON has them."""
  return json.loads(json.dumps(grids))


@pytest.mark.slow
@pytest.mark.parametrize('name', ['same', 'sizes', 'tests'])
def test_published_steps(step, name):
  with np.load(_GOLDEN / f'{name}.npz') as file:
    golden = dict(file)
  config, task, told = (
    json.loads(str(golden[key])) for key in ('config', 'task', 'candidates')
  )
  problem = pad(prepare(parse_task('t', task, name)), _SIZES)
  sizes = tuple(map(int, problem.sizes))
  state = fit.initial(0, problem, np.float64)
  latents, weights = jax.tree.map(np.array, (state.latents, state.weights))
  shapes = {array: tuple(shape) for array, shape in config['names']}

  def arrays(flat):
    ends = np.cumsum([np.prod(shape, dtype=int) for shape in shapes.values()])
    parts = np.split(flat.astype(np.float64), ends[:-1])
    return {
      array: part.reshape(shape)
      for (array, shape), part in zip(shapes.items(), parts, strict=True)
    }

  def flat(latents, weights):
    found = published.read(latents, weights, shapes, sizes)
    return np.concatenate([found[array].ravel() for array in shapes])

  published.write(arrays(golden['param']), latents, weights, sizes)
  start = flat(latents, weights)
  np.testing.assert_array_equal(start, golden['param'])
  state = state._replace(latents=latents, weights=weights)
  ranking = fit.Ranking()
  for i, noise in enumerate(golden['noise'].astype(np.float64)):
    draws = published.noise(noise, latents.mean, sizes)
    state, found = jax.device_get(
      step(state, problem, draws, config['first_step'] + i)
    )
    kl = [
      getattr(found.kl, part)[kind]
      for part, kind in multitensor.tensors().values()
    ]
    assert _distance(kl, golden['kl'][i]) < 2e-6
    assert _distance(found.error, golden['reconstruction_error'][i]) < 2e-6
    seen = fit.candidates(found, problem)
    for place, (grids, score) in enumerate(seen):
      assert _grids(grids) == told['solutions'][i][place]
      assert abs(score - golden['score'][i][place]) < 1e-6
      ranking.add(grids, score)
    guesses = ranking.first, ranking.second
    assert [*map(_grids, guesses)] == [told['first'][i], told['second'][i]]
    for guess, total in zip(guesses, golden['accumulated'][i], strict=True):
      assert abs(ranking.scores[guess] - total) < 1e-6
  moved = flat(*jax.tree.map(np.asarray, (state.latents, state.weights)))
  # What has no gradient but for rounding goes where rounding leads it.
  sure = np.concatenate(
    [
      np.full(part.size, np.linalg.norm(part) > 1e-5)
      for part in arrays(golden['grad0']).values()
    ]
  )
  wanted = golden['param_final'].astype(np.float64) - start
  assert _distance((moved - start)[sure], wanted[sure]) < 1e-3


@pytest.mark.parametrize('name', ['known', 'free'])
def test_published_guesses(name):
  with np.load(_GOLDEN / 'guesses.npz') as file:
    golden = {
      key.removeprefix(f'{name}/'): value
      for key, value in file.items()
      if key.startswith(name)
    }
  task = json.loads(str(golden['task']))
  problem = prepare(parse_task('t', task, name))
  # These masks have nothing taken off where no grid can be.
  problem.shape[:, 0] = problem.sizes[2:]
  known = [_grids(grids) for grids in json.loads(str(golden['grids']))]
  ranking = fit.Ranking()
  with jax.enable_x64(True):

    @jax.jit
    def both(average, now, step):
      average = loss.average(average, now)
      found = [loss.guess(one, problem) for one in (now, average)]
      guesses = jax.tree.map(lambda *two: jnp.stack(two), *found)
      scores = loss.score(guesses.uncertainty, step)
      return average, fit.Told(None, None, guesses, scores)

    said = Answer(
      *(golden[key].astype(float) for key in ('logits', 'x_mask', 'y_mask'))
    )
    average = jax.tree.map(lambda a: np.zeros(a.shape[1:]), said)
    for i in range(len(said.logits)):
      now = jax.tree.map(lambda a, i=i: a[i], said)
      average, told = jax.device_get(both(average, now, i))
      for place, (grids, score) in enumerate(fit.candidates(told, problem)):
        assert _grids(grids) == known[golden['candidate'][i][place]]
        assert abs(score - golden['score'][i][place]) < 1e-6
        ranking.add(grids, score)
      assert _grids(ranking.first) == known[golden['first'][i]]
      assert _grids(ranking.second) == known[golden['second'][i]]
  best = [_grids(grids) for grids in ranking.best()]
  scores = sorted(ranking.scores.values(), reverse=True)
  np.testing.assert_allclose(scores, golden['rank_score'], atol=1e-6)
  assert best[:2] == [known[i] for i in golden['rank'][:2]]
