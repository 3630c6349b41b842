"""A checkpoint and puzzles of one's own: rows, predictions, traces."""

import dataclasses
import functools
import math
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import chex
import jax
import numpy as np
from absl import flags, logging
from jax.sharding import Mesh

from data_pipelines import puzzles
from data_pipelines.arc import encoding
from data_pipelines.arc import tasks as arc
from data_pipelines.batches import BLANK_IDENTIFIER, padded
from data_pipelines.drawing.pictures import Thought
from data_pipelines.errors import ConfigError, DataError
from data_pipelines.puzzle_set import EvaluationRows, PuzzleSet
from data_pipelines.questions import loading as questions
from data_pipelines.questions.loading import Questions
from data_pipelines.questions.maze import Maze
from data_pipelines.questions.pipeline import QuestionSet
from data_pipelines.questions.sudoku import Sudoku
from data_pipelines.scoring import Judge
from experiments.cli import data_flags
from hrm_jax import build
from hrm_jax.inference import evaluation, traces
from hrm_jax.inference import predict as inference
from hrm_jax.parallel import sharding
from hrm_jax.training import adaptation
from hrm_jax.training import step as train_step
from hrm_jax.workdir import checkpoints

ADAPT = ('rows', 'all', 'none')


class Checkpoint(NamedTuple):
  """A checkpoint that was read, and what it is for.

  Attributes:
    workdir: of its run.
    config: of its run.
    mesh: where its arrays are.
    step: of its training.
    position: with the name of each row of the table.
    domain: of its puzzles; None for ARC.
    canvas: of ARC: side, cells.
    setup: of its training.
    variables: of the model.
    puzzle_table: float32 [R, E].
    predict: of `inference.sharded_predict`, as the run evaluates.
  """

  workdir: pathlib.Path
  config: Any
  mesh: Mesh
  step: int
  position: checkpoints.Position
  domain: Sudoku | Maze | None
  canvas: int
  setup: train_step.TrainSetup
  variables: Any
  puzzle_table: chex.Array
  predict: inference.PredictFunction

  @property
  def puzzles(self) -> str:
    """What it solves, in words."""
    if self.domain is not None:
      return str(self.domain)
    return f'ARC tasks on a canvas of {self.canvas} × {self.canvas}'


@dataclasses.dataclass(frozen=True)
class Fitting:
  """How a task that was never trained on gets its rows.

  Attributes:
    adapt: 'rows' fits new rows, the trunk frozen; 'all' fits rows and a copy
      of the trunk; 'none' fits nothing and uses the blank row.
    steps: of training, for each new task.
    seconds: that these may take for each new task, compilation included; None
      for no limit.
    num_aug: augmentations of a new task besides itself, each with a row and a
      vote of its own.
    seed: of the augmentations and of the order of the demonstrations.
  """

  adapt: str = 'rows'
  steps: int = 300
  seconds: float | None = None
  num_aug: int = 30
  seed: int = 0


DEFAULT = Fitting()
# Shared by the commands that fit.
_TASK = flags.DEFINE_string('task', None, 'SPEC of your puzzles.')
_ADAPT = flags.DEFINE_enum(
  'adapt', DEFAULT.adapt, ADAPT,
  'For a task that was never trained on: new rows, the trunk frozen; new rows '
  'and a copy of the trunk; or nothing but the blank row.',
)  # fmt: skip
_STEPS = flags.DEFINE_integer(
  'steps', DEFAULT.steps, 'Of fitting, for each new task.', lower_bound=1
)
_SECONDS = flags.DEFINE_float(
  'seconds', None, 'That fitting may take for each new task; unset: no limit.',
  lower_bound=0,
)  # fmt: skip


def task() -> str:
  """The value of --task.

  Raises:
    ConfigError: it is missing.
  """
  if not _TASK.value:
    raise ConfigError(
      '--task=SPEC is missing, e.g. --task=my_task.json, or the 81 characters '
      'of a Sudoku'
    )
  return _TASK.value


def fitting() -> Fitting:
  """What the flags say of new tasks."""
  num_aug = data_flags.NUM_AUG.value
  return Fitting(
    _ADAPT.value,
    _STEPS.value,
    _SECONDS.value,
    DEFAULT.num_aug if num_aug is None else num_aug,
    data_flags.SEED.value,
  )


class Predicted(NamedTuple):
  """Puzzles that were predicted in one way.

  Attributes:
    puzzles: the set; all of it is scored.
    way: which rows were used, in words.
    judge: has the predictions and their scores.
    identifiers: row of the table of each puzzle identifier.
    variables: that predicted.
    puzzle_table: that they were predicted with.
  """

  puzzles: PuzzleSet
  way: str
  judge: Judge
  identifiers: np.ndarray
  variables: Any
  puzzle_table: chex.Array


def load(workdir: pathlib.Path, step: int | None = None) -> Checkpoint:
  """Reads a checkpoint, the newest one unless a step is named.

  Raises:
    ConfigError, DataError: there is none, or it cannot be used.
  """
  config, _ = build.read_run(workdir)
  # The run's may be for a machine of another kind; what it is trained by is
  # told anew.
  config.model.attention, config.total_steps = 'auto', 1
  mesh = sharding.make_mesh()
  saved = checkpoints.Checkpoints(workdir)
  step = saved.find(step)
  position = saved.position(step)
  domain, canvas = _domain(config)
  shapes = puzzles.Shapes(
    vocab_size=domain.vocab_size if domain else encoding.VOCAB_SIZE,
    seq_len=domain.seq_len if domain else canvas**2,
    num_identifiers=len(position.identifier_names),
    examples_per_pass=1.0,
  )
  setup = build.train_setup(config, shapes)
  variables, puzzle_table = saved.restore_weights(
    step, train_step.abstract_to_predict(setup, mesh)
  )
  saved.close()
  return Checkpoint(
    workdir, config, mesh, step, position, domain, canvas, setup, variables,
    puzzle_table,
    inference.sharded_predict(
      setup.model, setup.act, config.evaluation.halting, mesh
    ),
  )  # fmt: skip


def _domain(config: Any) -> tuple[Sudoku | Maze | None, int]:
  """The domain of a run's puzzles, None for ARC, and ARC's canvas."""
  spec = config.data.evaluate or config.data.train
  kind = puzzles.kind(spec)
  if kind == puzzles.ARC:
    return None, config.data.canvas
  if kind == puzzles.QUESTIONS:
    return questions.domain_of(spec), 0
  published = build.puzzle_set(config)
  if published.domain is None and published.vocab_size != encoding.VOCAB_SIZE:
    raise DataError(
      f'{spec}: neither ARC tasks nor Sudokus nor mazes: only '
      'experiments.evaluate can predict them'
    )
  return published.domain, math.isqrt(published.seq_len)


def read(checkpoint: Checkpoint, spec: str) -> arc.TaskSet | Questions:
  """The puzzles that a SPEC names, which the checkpoint can be asked.

  Args:
    checkpoint: of `load`.
    spec: see `data_pipelines.puzzles`. Of ARC tasks those that do not fit the
      canvas are left out, if others do; the log says so.

  Raises:
    ConfigError, DataError: they cannot be used, or not with this checkpoint.
  """
  kind = puzzles.kind(spec)
  if kind == puzzles.PUBLISHED:
    raise DataError(
      f'{spec}: a directory of the published format has no tasks of its own; '
      'name it in --config.data.evaluate'
    )
  if kind == puzzles.ARC:
    asked = arc.load_tasks(spec)
    domain, found = None, 'ARC tasks'
  else:
    asked = questions.load_questions(spec, 'test', 0)
    domain, found = asked.domain, str(asked.domain)
  if domain != checkpoint.domain:
    raise ConfigError(
      f'{checkpoint.workdir}: was trained on {checkpoint.puzzles}; {spec} has '
      f'{found}: give it puzzles of its own kind and size'
    )
  return asked if domain else _fitting_canvas(checkpoint, asked, spec)


def _fitting_canvas(
  checkpoint: Checkpoint, tasks: arc.TaskSet, spec: str
) -> arc.TaskSet:
  canvas = checkpoint.canvas
  large = [task for task in tasks.tasks if not task.fits(canvas)]
  if not large:
    return tasks
  text = (
    f"{spec}: task '{large[0].name}' has a grid larger than the checkpoint's "
    f'canvas of {canvas} × {canvas}'
  )
  if len(large) == len(tasks.tasks):
    raise DataError(
      f'{text}; give a smaller one, or train with a larger --config.data.canvas'
    )
  logging.warning(
    '%s; so have %d of %d tasks, which are left out',
    text, len(large), len(tasks.tasks),
  )  # fmt: skip
  fitting = tuple(task for task in tasks.tasks if task.fits(canvas))
  return tasks._replace(tasks=fitting)


def predict(
  checkpoint: Checkpoint, asked: arc.TaskSet | Questions, fitting: Fitting
) -> list[Predicted]:
  """Predicts puzzles, those known to the checkpoint first.

  Tasks of ARC that the checkpoint was trained on, by name and content, use
  their own rows; `fitting` says what others use. Answers of test inputs are
  never trained on.

  Args:
    checkpoint: of `load`.
    asked: of `read`.
    fitting: how new tasks are fitted.

  Raises:
    ConfigError, DataError: a setting is out of range, or the model has no rows
      to be fitted.
  """
  if isinstance(asked, Questions):
    return [
      _predict(
        checkpoint,
        QuestionSet(None, asked, 0, 0),
        'the checkpoint as it is',
        np.array([BLANK_IDENTIFIER], np.int32),
        checkpoint.variables,
        checkpoint.puzzle_table,
      )
    ]
  # TensorFlow takes half a gigabyte: only what uses it imports it.
  from data_pipelines.arc.pipeline import ArcSet

  known, new = known_and_new(checkpoint, asked.tasks)
  names = checkpoint.position.identifier_names
  parts = []
  if known:
    own = ArcSet(
      None, asked._replace(tasks=tuple(known)), checkpoint.canvas, 0, 0,
      identifier_names=names,
    )  # fmt: skip
    parts.append(
      _predict(
        checkpoint,
        own,
        'its own rows, which the checkpoint has',
        evaluation.match_identifiers(own, own.evaluation_rows(), names),
        checkpoint.variables,
        checkpoint.puzzle_table,
      )
    )
  if new:
    unseen = ArcSet(
      None, asked._replace(tasks=tuple(new)), checkpoint.canvas,
      fitting.num_aug, fitting.seed,
    )  # fmt: skip
    parts.append(
      _predict(checkpoint, unseen, *_fit(checkpoint, unseen, fitting))
    )
  return parts


def known_and_new(
  checkpoint: Checkpoint, tasks: Sequence[arc.Task]
) -> tuple[list[arc.Task], list[arc.Task]]:
  """Tasks that the checkpoint was trained on, and all others.

  They are told by name and by content: what has changed since is not known.
  """
  named = {
    encoding.parse_augmentation_name(name)[0]
    for name in checkpoint.position.identifier_names
  }
  trained = {}
  if any(task.name in named for task in tasks):
    trained = _trained_tasks(checkpoint)
  known, new = [], []
  for task in tasks:
    content, role = trained.get(task.name, (None, ''))
    is_known = task.name in named and _content(task) == content
    if is_known and role == 'train':
      logging.warning(
        "Task '%s': its test pairs were trained on too (data.train)", task.name
      )
    if task.name in named and not is_known:
      logging.info(
        "Task '%s' has the name of one that was trained on, and is not (or not "
        'certainly) the same: it is taken for a new one', task.name,
      )  # fmt: skip
    (known if is_known else new).append(task)
  return known, new


def _trained_tasks(checkpoint: Checkpoint) -> dict[str, tuple[set[Any], str]]:
  """Content and role of the run's tasks by name; none if not at hand."""
  data = checkpoint.config.data
  try:
    sets = {
      role: arc.load_tasks(spec)
      for role, spec in (('train', data.train), ('evaluate', data.evaluate))
      if spec and puzzles.kind(spec) == puzzles.ARC
    }
  except DataError as error:
    logging.warning('The data of the run cannot be compared with: %s', error)
    return {}
  version = '; '.join(f'{role} {tasks.version}' for role, tasks in sets.items())
  trained_on = checkpoint.position.data_version
  if trained_on != version and not trained_on.startswith(
    checkpoints.UNKNOWN_DATA
  ):
    logging.warning(
      'The data of the run are not what they were: %s then, %s now',
      trained_on, version,
    )  # fmt: skip
    return {}
  return {
    task.name: (_content(task), role)
    for role, tasks in sets.items()
    for task in tasks.tasks
  }


def _content(task: arc.Task) -> set[Any]:
  """The demonstrations, in no order."""
  return {
    tuple((grid.shape, grid.tobytes()) for grid in (pair.input, pair.output))
    for pair in task.demonstrations
  }


def _fit(
  checkpoint: Checkpoint, unseen: PuzzleSet, fitting: Fitting
) -> tuple[str, np.ndarray, Any, chex.Array]:
  """The way, rows, variables and table for puzzles that were not trained on."""
  count = len(unseen.evaluation_tasks)
  if fitting.adapt == 'none':
    return (
      'the blank row: nothing was fitted, and the model cannot know the task',
      np.full(unseen.num_identifiers, BLANK_IDENTIFIER, np.int32),
      checkpoint.variables,
      checkpoint.puzzle_table,
    )
  trunk, mesh = fitting.adapt == 'all', checkpoint.mesh
  setup = adaptation.setup_for(
    checkpoint.setup,
    unseen.num_identifiers,
    sharding.round_up(mesh, 'batch', checkpoint.config.batch_size),
    fitting.steps * count,
    trunk,
  )
  logging.info(
    'Fitting %d new rows to %d demonstrations of %d task%s; the trunk %s',
    len(unseen.members), sum(len(t.demonstrations) for t in unseen.tasks),
    count, 's' * (count > 1), 'learns too' if trunk else 'is frozen',
  )  # fmt: skip
  state = adaptation.fit(
    setup,
    mesh,
    adaptation.start(setup, mesh, checkpoint.variables),
    unseen.train_batches(setup.batch_size, fitting.seed),
    None if fitting.seconds is None else fitting.seconds * count,
  )
  what = 'new rows and a copy of the trunk' if trunk else 'new rows'
  return (
    f'{what}, fitted in {int(state.step)} steps on the demonstrations'
    + ('' if trunk else '; the trunk frozen'),
    np.arange(unseen.num_identifiers, dtype=np.int32),
    state.predicting,
    state.puzzle_table,
  )


def _predict(
  checkpoint: Checkpoint,
  of: PuzzleSet,
  way: str,
  identifiers: np.ndarray,
  variables: Any,
  puzzle_table: chex.Array,
) -> Predicted:
  judge = evaluation.evaluate(
    of,
    of.evaluation_rows(),
    identifiers,
    checkpoint.predict,
    variables,
    puzzle_table,
    sharding.round_up(
      checkpoint.mesh, 'batch', checkpoint.config.evaluation.batch_size
    ),
  )
  return Predicted(of, way, judge, identifiers, variables, puzzle_table)


# By the halting rule, as they stand in q.
_Q_NAMES = {
  'q_learning': ('q_halt', 'q_continue'),
  'halt_only': ('q_halt',),
  'none': (),
}

# Compiled once for all puzzles of a checkpoint.
_trace_function = functools.cache(traces.sharded_trace)


class Traced(NamedTuple):
  """The trace of some test inputs, each as it is, not augmented.

  Attributes:
    rows: which ones, see `PuzzleSet.evaluation_rows`.
    inputs: tokens, [rows, S].
    labels: tokens, [rows, S], 0 where a cell does not count.
    trace: of all rows.
    setup: of the checkpoint.
  """

  rows: EvaluationRows
  inputs: np.ndarray
  labels: np.ndarray
  trace: traces.Trace
  setup: train_step.TrainSetup

  def thought(self, row: int) -> Thought:
    """One row, to be drawn."""
    return thought_of(self.setup, self.trace, self.labels[row], row)


def thought_of(
  setup: train_step.TrainSetup,
  trace: traces.Trace,
  label: np.ndarray,
  row: int,
) -> Thought:
  """One row of a trace, to be drawn.

  Args:
    setup: of the checkpoint.
    trace: of some rows.
    label: of this row, tokens [S], 0 where a cell does not count.
    row: which one.
  """
  names = _Q_NAMES[setup.act.halting]
  return Thought(
    setup.model.update_levels,
    trace.tokens[:, :, row],
    {name: trace.q[:, row, i] for i, name in enumerate(names)},
    trace.halts[:, row],
    label if label.any() else None,
  )


def trace(
  checkpoint: Checkpoint,
  predicted: Predicted,
  segments: int,
  max_puzzles: int | None = None,
) -> Traced:
  """How the model came to its answers.

  Args:
    checkpoint: of `load`.
    predicted: of `predict`.
    segments: to be done, whenever it would halt.
    max_puzzles: at most so many, spread evenly over the set.
  """
  of, mesh = predicted.puzzles, checkpoint.mesh
  rows = of.evaluation_rows(1, max_puzzles)
  size = sharding.round_up(mesh, 'batch', len(rows))
  (batch,) = of.evaluation_batches(rows, size)
  identifiers = predicted.identifiers[batch['puzzle_identifiers']]
  run = _trace_function(
    checkpoint.setup.model, checkpoint.setup.act, segments, mesh
  )
  found = run(
    predicted.variables,
    np.asarray(predicted.puzzle_table[identifiers]),
    batch['inputs'],
  )
  count = len(rows)
  found = jax.device_get(found)
  found = traces.Trace(
    tokens=found.tokens[:, :, :count],
    q=found.q[:, :count],
    halts=found.halts[:, :count],
    residuals=found.residuals[:, :, :count],
  )
  return Traced(
    rows,
    batch['inputs'][:count],
    padded(batch['labels'])[:count],
    found,
    checkpoint.setup,
  )
