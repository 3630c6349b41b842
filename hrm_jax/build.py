"""From settings to the objects that they describe."""

from collections.abc import Sequence

import jax
from jax.sharding import Mesh

from data_pipelines.errors import ConfigError
from data_pipelines.leaks import Verdict
from data_pipelines.puzzle_set import EvaluationRows, PuzzleSet
from data_pipelines.puzzles import Shapes, leaks_of, load_puzzles, load_shapes
from hrm_jax.models import KINDS, ReasoningModel
from hrm_jax.parallel import sharding
from hrm_jax.settings import DataSettings, ModelSettings, Settings
from hrm_jax.training.step import TrainSetup


def model(
  settings: ModelSettings, vocab_size: int, seq_len: int
) -> ReasoningModel:
  """The model of these settings, for puzzles of V tokens and S cells."""
  return KINDS[settings.kind](settings, vocab_size, seq_len)


def mesh(
  settings: Settings, devices: Sequence[jax.Device] | None = None
) -> Mesh:
  """The mesh that `settings.mesh` asks for, of all devices or those given."""
  return sharding.make_mesh(devices, settings.mesh)


def puzzle_set(
  settings: Settings, identifier_names: Sequence[str] | None = None
) -> PuzzleSet:
  """The puzzles that `settings.data` names; else a DataError.

  With `identifier_names`, of the rows of a checkpoint's puzzle table, to
  predict with it.
  """
  return load_puzzles(
    *_loading(settings.data), identifier_names, settings.data.unscored
  )


def shapes(settings: Settings) -> Shapes:
  """What `puzzle_set` would be like, without a download; else a DataError."""
  return load_shapes(*_loading(settings.data))


def _loading(x: DataSettings) -> tuple[str, str, int, int, int, bool]:
  """The arguments that `load_puzzles` and `load_shapes` share."""
  return x.train, x.evaluate, x.canvas, x.num_aug, x.seed, x.allow_leaks


def check_leaks(settings: Settings, puzzles: PuzzleSet) -> Verdict:
  """Which held-out answers are trained on; `refused` where they may not be."""
  data = settings.data
  return Verdict(leaks_of(puzzles), data.known_leaks, data.allow_leaks)


def held_out(settings: Settings, puzzles: PuzzleSet) -> EvaluationRows:
  """The rows that are predicted while training.

  Raises:
    ConfigError: there are none, and evaluations are asked for.
  """
  chosen = puzzles.evaluation_rows(
    settings.evaluation.max_augmentations or None,
    settings.evaluation.max_puzzles or None,
  )
  chosen = puzzles.images(chosen, settings.evaluation.symmetries)
  if settings.evaluate_every and not len(chosen):
    raise ConfigError(
      f'evaluate_every={settings.evaluate_every}, but data.evaluate names no '
      'tasks; name some or set evaluate_every=0'
    )
  return chosen


def total_steps(settings: Settings, puzzles: PuzzleSet | Shapes) -> int:
  """Length of the run: given, or by the paper's rule from the epochs."""
  steps = settings.total_steps or int(
    settings.epochs * puzzles.examples_per_pass / settings.batch_size
  )
  if steps < 1:
    raise ConfigError(
      f'epochs={settings.epochs} and total_steps={settings.total_steps} give '
      'no training step; raise one of them'
    )
  return steps


def train_setup(settings: Settings, puzzles: PuzzleSet | Shapes) -> TrainSetup:
  """What defines the training step; a ConfigError where there would be none."""
  return TrainSetup(
    model=model(settings.model, puzzles.vocab_size, puzzles.seq_len),
    act=settings.act,
    optimizer=settings.optimizer,
    loss=settings.loss,
    total_steps=total_steps(settings, puzzles),
    batch_size=settings.batch_size,
    num_puzzle_identifiers=puzzles.num_identifiers,
    seed=settings.seed,
    microbatches=settings.microbatches,
    divergence=settings.divergence,
  )
