"""Settings of an experiment: the only place of their defaults and checks.

`Settings` holds one frozen dataclass for each group (`settings.model`, ...).
ConfigDicts and a run's config.json have the same keys: a setting that is added
here, with a default that changes nothing, is known everywhere. No JAX here.
"""

import dataclasses
import functools
import math
import sys
import typing
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from data_pipelines.errors import ConfigError

# How the segments of a prediction end, see `EvaluationSettings`.
Halting = Literal['fixed', 'act', 'settled']
# How attention is computed, see `ModelSettings`.
AttentionName = Literal[
  'auto', 'xla', 'xla_recompute', 'cpu', 'pallas', 'cudnn'
]


# What arrays can be counted by, and what a program can be made of.
_GREATEST, _MOST_UPDATES, _WIDEST = 2**63 - 1, 1000, 2**20


@functools.cache
def _types(group: type) -> dict[str, Any]:
  """The type of each field of a dataclass."""
  hints = typing.get_type_hints(group)
  return {field.name: hints[field.name] for field in dataclasses.fields(group)}


def choices(group: type, name: str) -> tuple[str, ...]:
  """The words that a setting can be, e.g. choices(ActSettings, 'halting')."""
  return typing.get_args(_types(group)[name])


@dataclasses.dataclass(frozen=True)
class _Group:
  """Settings of one group; types and values are checked when it is made."""

  # Precedes the names of the fields in messages and on the command line.
  prefix: ClassVar[str] = ''

  def __post_init__(self):
    # mypy takes the hash of the instances for that of the class.
    for name, kind in _types(type(self)).items():  # type: ignore[arg-type]
      value = _typed(f'{self.prefix}{name}', getattr(self, name), kind)
      object.__setattr__(self, name, value)
    self._check()

  def _check(self) -> None:
    """Raises ConfigError where values are out of range or do not fit."""

  def _at_least(self, least: int, *names: str, told: str = '') -> None:
    """Raises ConfigError where one of these fields is smaller than `least`."""
    for name in names:
      value = getattr(self, name)
      if value < least:
        raise ConfigError(
          f'{self.prefix}{name}={value} must be at least {least}{told}'
        )


def _typed(key: str, value: Any, kind: Any) -> Any:
  """The value as its setting's type has it: 1 for a float is 1.0."""
  inner = typing.get_args(kind)
  if typing.get_origin(kind) is Literal:
    if value in inner:
      return value
    raise ConfigError(
      f'{key}={value!r} is unknown; use one of {", ".join(inner)}'
    )
  if float in (kind, *inner) and type(value) in (int, float):
    # An int may be too large for a float.
    if abs(value) <= sys.float_info.max:
      return float(value)
  elif kind == tuple[str, ...]:
    if isinstance(value, list | tuple) and {*map(type, value)} <= {str}:
      return tuple(value)
  elif kind is int:
    if type(value) is int and abs(value) <= _GREATEST:
      return value
  elif isinstance(value, kind):
    return value
  words = {
    int: 'a whole number of 64 bits',
    float: 'a finite number',
    float | None: 'a finite number or None',
    bool: 'true or false',
    str: 'a text',
    tuple[str, ...]: 'a list of texts',
  }
  raise ConfigError(f'{key}={value!r} must be {words.get(kind, "a group")}')


@dataclasses.dataclass(frozen=True)
class ModelSettings(_Group):
  """Settings that all kinds of models have.

  Attributes:
    hidden_size: size D of a token's state.
    num_heads: number N of attention heads; it divides `hidden_size`.
    expansion: ratio of the MLP's inner size to `hidden_size`, before the two
      thirds of a SwiGLU and rounding (see `layers.swiglu_width`).
    mlp: 'swiglu', or 'conv_swiglu', which filters each inner channel along the
      tokens (URM, see `layers.TokenFilter`).
    filter_dtype: type that 'conv_swiglu' keeps its filters in. 'float32' is
      computed with in `dtype`, as all parameters are. 'bfloat16', as published,
      is computed with in bfloat16 and hardly trains: most updates are rounded
      away.
    puzzle_emb_ndim: size E of a puzzle's embedding; 0 for a model without.
    puzzle_emb_len: number P of prefix tokens that hold it; 0 for as many as it
      fills.
    pos_encodings: 'rope' turns queries and keys by their positions, 'learned'
      adds a table to the input, 'none' does neither.
    dtype: type of activations and states; parameters are float32.
    attention: implementation of attention: 'xla'; 'xla_recompute', which
      computes scores twice instead of keeping them; 'cpu'; 'pallas' on a TPU;
      'cudnn' on a GPU from compute capability 8.0 on, in 16 bits; 'auto'
      chooses by the device.
    fusion: what one kernel computes where attention is 'pallas': 'attention'
      or a whole 'block' (see `hrm_jax.models.attention.tpu_blocks`).
  """

  prefix: ClassVar[str] = 'model.'
  # `model.kind`, and whether a segment continues the last one's state.
  kind: ClassVar[str] = ''
  recurrent: ClassVar[bool] = True

  hidden_size: int = 512
  num_heads: int = 8
  expansion: float = 4.0
  mlp: Literal['swiglu', 'conv_swiglu'] = 'swiglu'
  filter_dtype: Literal['float32', 'bfloat16'] = 'float32'
  puzzle_emb_ndim: int = 512
  puzzle_emb_len: int = 0
  pos_encodings: Literal['rope', 'learned', 'none'] = 'rope'
  # Not float64: JAX would quietly make it float32.
  dtype: Literal['float32', 'bfloat16', 'float16'] = 'bfloat16'
  attention: AttentionName = 'auto'
  fusion: Literal['attention', 'block'] = 'block'

  def _check(self) -> None:
    for name, value in dataclasses.asdict(self).items():
      if isinstance(value, bool | str):
        continue
      may_be_0 = name in ('puzzle_emb_ndim', 'puzzle_emb_len')
      if value < 0 or not (value or may_be_0):
        must = 'not be negative' if may_be_0 else 'be positive'
        raise ConfigError(f'model.{name}={value} must {must}')
      most = _MOST_UPDATES if name.endswith('layers') else _WIDEST
      if value > most:
        raise ConfigError(f'model.{name}={value} must be at most {most}')
    head_size, rest = divmod(self.hidden_size, self.num_heads)
    if rest:
      raise ConfigError(
        f'model.hidden_size={self.hidden_size} is not divisible by '
        f'model.num_heads={self.num_heads}; choose heads that divide it'
      )
    if self.pos_encodings == 'rope' and head_size % 2:
      raise ConfigError(
        f'model.hidden_size / model.num_heads = {head_size} is odd; rotary '
        'positions need an even head size'
      )
    if self.attention == 'cudnn' and self.dtype == 'float32':
      raise ConfigError(
        "model.attention='cudnn' needs model.dtype='bfloat16' or 'float16'; "
        "use one of them, or model.attention='auto'"
      )
    if self.prefix_len * self.hidden_size < self.puzzle_emb_ndim:
      raise ConfigError(
        f'model.puzzle_emb_ndim={self.puzzle_emb_ndim} does not fit '
        f'model.puzzle_emb_len={self.puzzle_emb_len} tokens of '
        f'model.hidden_size={self.hidden_size}; raise puzzle_emb_len'
      )

  @property
  def prefix_len(self) -> int:
    """Number P of the puzzle embedding's tokens, which precede the cells."""
    if self.puzzle_emb_ndim == 0:
      return 0
    return self.puzzle_emb_len or -(-self.puzzle_emb_ndim // self.hidden_size)

  @property
  def update_levels(self) -> str:
    """The level of each update of a segment, in order: L or H."""
    return 'H'

  def block_passes(self) -> tuple[int, int]:
    """Blocks that a segment runs through, and those of them with gradient."""
    raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class CycledSettings(ModelSettings):
  """Settings of the models that update their states in cycles.

  Attributes (beside those of `ModelSettings`):
    H_cycles: cycles of a segment.
    L_cycles: updates of the fast state in a cycle, which one of z_H follows; or
      where z_H is the only state, its updates in a cycle.
    gradient: the updates at the segment's end that carry a gradient, to the
      parameters and to x̃: 'one_step' the last of each state (HRM, section 2,
      "Approximate gradient"), 'last_cycle' those of the last cycle (TRM, URM),
      'last_K' the last K of all, 'full' all. None goes back into earlier
      segments.
  """

  H_cycles: int = 2
  L_cycles: int = 2
  gradient: str = 'one_step'

  def _check(self) -> None:
    super()._check()
    if self.updates > _MOST_UPDATES:
      raise ConfigError(
        f'model.H_cycles={self.H_cycles} and model.L_cycles={self.L_cycles} '
        f'make more than {_MOST_UPDATES} updates of a segment; lower one'
      )
    if not self.gradient_updates:
      raise ConfigError(
        f"model.gradient='{self.gradient}' is unknown; use one_step, "
        f'last_cycle, full, or last_1 … last_{self.updates} for the last of '
        f'the {self.updates} updates of a segment'
      )

  @property
  def cycle(self) -> str:
    """The level of each update of a cycle, in order: L or H."""
    return 'L' * self.L_cycles + 'H'

  @property
  def updates(self) -> int:
    """Updates of any state in a segment."""
    return self.H_cycles * len(self.cycle)

  @property
  def update_levels(self) -> str:
    return self.cycle * self.H_cycles

  @property
  def gradient_updates(self) -> int:
    """How many of the updates, the last ones, carry a gradient."""
    last = {f'last_{count}': count for count in range(1, self.updates + 1)}
    named = {'one_step': len({*self.cycle}), 'last_cycle': len(self.cycle)}
    return (last | named | {'full': self.updates}).get(self.gradient, 0)

  def block_passes(self) -> tuple[int, int]:
    # Of the one level, or of the two of HRM.
    blocks = [
      getattr(self, 'layers', 0) or getattr(self, f'{level}_layers')
      for level in self.update_levels
    ]
    return sum(blocks), sum(blocks[-self.gradient_updates :])


@dataclasses.dataclass(frozen=True)
class HRMSettings(CycledSettings):
  """Settings of `HRM`, which has a level of its own for each state.

  Attributes (beside those of `CycledSettings`):
    H_layers: number of blocks of the high level.
    L_layers: number of blocks of the low level.
  """

  kind: ClassVar[str] = 'hrm'

  H_layers: int = 4
  L_layers: int = 4


@dataclasses.dataclass(frozen=True)
class TRMSettings(CycledSettings):
  """Settings of `TRM`, whose one level updates both states.

  Attributes (beside those of `CycledSettings`):
    layers: number of blocks of the level.
    mlp_t: whether tokens are mixed by an MLP over them instead of by attention.
  """

  kind: ClassVar[str] = 'trm'

  puzzle_emb_len: int = 16
  H_cycles: int = 3
  L_cycles: int = 4
  gradient: str = 'last_cycle'
  layers: int = 2
  mlp_t: bool = False


@dataclasses.dataclass(frozen=True)
class DirectSettings(ModelSettings):
  """Settings of `Direct`.

  Attributes (beside those of `ModelSettings`):
    layers: number of blocks of the stack.
  """

  kind: ClassVar[str] = 'direct'
  recurrent: ClassVar[bool] = False

  layers: int = 8

  def block_passes(self) -> tuple[int, int]:
    return self.layers, self.layers


@dataclasses.dataclass(frozen=True)
class RecurrentTransformerSettings(CycledSettings):
  """Settings of `RecurrentTransformer`, whose one stack updates one state.

  Attributes (beside those of `CycledSettings`):
    layers: number of blocks of the stack.
  """

  kind: ClassVar[str] = 'recurrent_transformer'

  H_cycles: int = 1
  L_cycles: int = 1
  gradient: str = 'last_cycle'
  layers: int = 8

  @property
  def cycle(self) -> str:
    return 'H' * self.L_cycles


@dataclasses.dataclass(frozen=True)
class URMSettings(RecurrentTransformerSettings):
  """Settings of `URM`, which are those of the recurrent transformer."""

  kind: ClassVar[str] = 'urm'

  mlp: Literal['swiglu', 'conv_swiglu'] = 'conv_swiglu'
  H_cycles: int = 2
  L_cycles: int = 6
  layers: int = 4


MODELS: dict[str, type[ModelSettings]] = {
  'hrm': HRMSettings,
  'direct': DirectSettings,
  'recurrent_transformer': RecurrentTransformerSettings,
  'trm': TRMSettings,
  'urm': URMSettings,
}


@dataclasses.dataclass(frozen=True)
class ActSettings(_Group):
  """How rows halt during training.

  Attributes:
    halt_max_steps: number of segments after which a row halts in any case.
    halt_exploration_prob: probability, for each row and segment, that the row
      must do a random number of segments (2 … halt_max_steps) before it may
      halt.
    halting: 'q_learning' halts where q_halt > q_continue and trains q_continue
      on one more segment (HRM); 'halt_only' halts where q_halt > 0 and saves
      that segment (TRM, arXiv 2510.04871); 'none' always does all segments
      and trains no Q value.
  """

  prefix: ClassVar[str] = 'act.'

  halt_max_steps: int = 16
  halt_exploration_prob: float = 0.1
  halting: Literal['q_learning', 'halt_only', 'none'] = 'q_learning'

  def _check(self) -> None:
    self._at_least(1, 'halt_max_steps')
    if not 0 <= self.halt_exploration_prob <= 1:
      raise ConfigError(
        f'act.halt_exploration_prob={self.halt_exploration_prob} must lie in '
        '[0, 1]'
      )


@dataclasses.dataclass(frozen=True)
class OptimizerSettings(_Group):
  """Rates and decay; both rates follow one schedule.

  Attributes:
    kind: rule of the dense parameters: 'adam_atan2', or 'muon' for matrices and
      Adam for the rest (see `optimizers.muon`).
    learning_rate: peak rate of the dense parameters; 0 freezes them.
    weight_decay: decoupled weight decay of the dense parameters.
    b1: decay of the first moment of their gradients.
    b2: decay of the second moment.
    puzzle_learning_rate: peak rate of the puzzle table.
    puzzle_weight_decay: decoupled weight decay of the puzzle table.
    warmup_steps: number of steps of rising rates (`optimizers.warmup_cosine`).
    first_step: number that the schedule gives the first update: 1, or 0 as
      URM's does, whose first update has rate 0.
    min_ratio: fraction of the peak rates left at the last step; 1 for constant.
    ema_decay: decay of the moving average of the dense parameters that
      predicts (TRM: 0.999); 0 for none, the parameters themselves predict.
    rows_first: fraction of the steps, the first ones, in which the puzzle table
      learns alone: the dense parameters have a rate of 0.
  """

  prefix: ClassVar[str] = 'optimizer.'

  kind: Literal['adam_atan2', 'muon'] = 'adam_atan2'
  learning_rate: float = 1e-4
  weight_decay: float = 0.1
  b1: float = 0.9
  b2: float = 0.95
  puzzle_learning_rate: float = 1e-2
  puzzle_weight_decay: float = 0.1
  warmup_steps: int = 2000
  first_step: int = 1
  min_ratio: float = 1.0
  ema_decay: float = 0.0
  rows_first: float = 0.0

  def _check(self) -> None:
    for name, value in dataclasses.asdict(self).items():
      if isinstance(value, str):
        continue
      below_one = name in ('b1', 'b2', 'ema_decay')
      at_most_one = below_one or name in (
        'min_ratio', 'first_step', 'rows_first',
      )  # fmt: skip
      limit = 1.0 if at_most_one else math.inf
      if not 0 <= value <= limit or (below_one and value == 1):
        raise ConfigError(
          f'optimizer.{name}={value} is out of range: rates, decays and steps '
          'are not negative, b1, b2 and ema_decay lie in [0, 1), min_ratio, '
          'first_step and rows_first in [0, 1]'
        )


@dataclasses.dataclass(frozen=True)
class DivergenceSettings(_Group):
  """What counts as divergence, and what follows.

  A diverged update is never applied, whatever the policy.

  Attributes:
    policy: 'stop' ends the run; 'skip' continues with other puzzles;
      'rollback' returns to the last good checkpoint.
    loss_spike: how many times its running mean the loss may be; 0 for any.
    limit: number of skipped updates in a row, or of rollbacks, after which the
      run stops.
  """

  prefix: ClassVar[str] = 'divergence.'

  policy: Literal['stop', 'skip', 'rollback'] = 'stop'
  loss_spike: float = 0.0
  limit: int = 10

  def _check(self) -> None:
    if self.loss_spike != 0 and self.loss_spike <= 1:
      raise ConfigError(
        f'divergence.loss_spike={self.loss_spike} must be above 1, a factor '
        'over the running mean of the loss; 0 for none'
      )
    self._at_least(1, 'limit')


@dataclasses.dataclass(frozen=True)
class MeshSettings(_Group):
  """Number of devices along each axis of the mesh; -1 is what the others leave.

  Attributes:
    data: copies of the model, each with its rows of the batch.
    fsdp: devices that share the parameters, each with its rows of the batch.
    tensor: devices that share heads and MLP of the same rows.
  """

  prefix: ClassVar[str] = 'mesh.'

  data: int = -1
  fsdp: int = 1
  tensor: int = 1

  def shape(self, num_devices: int) -> tuple[int, ...]:
    """Sizes of the axes for so many devices; a ConfigError if none fit."""
    sizes = dataclasses.astuple(self)
    text = 'mesh.data={}, mesh.fsdp={}, mesh.tensor={}'.format(*sizes)
    known = [size for size in sizes if size != -1]
    if len(known) < 2 or min(known) < 1:
      raise ConfigError(f'{text}: sizes are positive, one of them may be -1')
    given = math.prod(known)
    if num_devices % given or (-1 not in sizes and given != num_devices):
      raise ConfigError(
        f'{text} do not multiply to the {num_devices} devices; change one, or '
        'set mesh.data=-1 for what the others leave'
      )
    return tuple(num_devices // given if s == -1 else s for s in sizes)


@dataclasses.dataclass(frozen=True)
class DataSettings(_Group):
  """The puzzles; `data_pipelines.puzzles` checks these when it loads them.

  Attributes:
    train: SPEC of the puzzles that are trained on (`data_pipelines.puzzles`).
    evaluate: SPEC of the puzzles that are held out and scored; the
      demonstrations of ARC tasks are trained on nevertheless.
    canvas: side of ARC's canvas in cells; tasks with larger grids are left out.
    num_aug: number of augmentations of each puzzle besides itself.
    seed: seed that the augmentations are drawn from.
    known_leaks: held-out answers that may be trained on, by the names that
      `python -m experiments.leaks` prints.
    allow_leaks: whether all held-out answers may be trained on.
    unscored: test pairs of ARC tasks of `evaluate` that are predicted and not
      scored, such as those with answers that leak; each is written
      `TASK test[INDEX]`, as `hrm-jax leaks` prints it; names of other tasks are
      ignored.
  """

  prefix: ClassVar[str] = 'data.'

  train: str = ''
  evaluate: str = ''
  canvas: int = 30
  num_aug: int = 1000
  seed: int = 0
  known_leaks: tuple[str, ...] = ()
  allow_leaks: bool = False
  unscored: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class EvaluationSettings(_Group):
  """How the held-out puzzles are predicted.

  Attributes:
    batch_size: number of rows at a time.
    halting: 'fixed' runs all segments; 'act' freezes a row at its own halt;
      'settled' freezes it where a segment has not changed its answer.
    max_augmentations: augmentations of each test input that are predicted
      while training, the identity first; 0 for all.
    max_puzzles: puzzles that are predicted while training, spread evenly over
      the held-out ones; 0 for all.
    symmetries: images of each Sudoku or maze that are predicted while training,
      as `Width.symmetries`; the answer is the one that they vote for.
  """

  prefix: ClassVar[str] = 'evaluation.'

  batch_size: int = 768
  halting: Halting = 'fixed'
  max_augmentations: int = 0
  max_puzzles: int = 0
  symmetries: int = 1

  def _check(self) -> None:
    self._at_least(0, 'max_augmentations', 'max_puzzles', told='; 0 is all')
    self._at_least(1, 'symmetries')


@dataclasses.dataclass(frozen=True)
class Width(_Group):
  """How many times a puzzle is predicted, and which answer is taken.

  Attributes:
    rollouts: runs of each puzzle side by side, each with noise of its own.
    noise: standard deviation of Gaussian noise on the state; 0 for none.
    noise_at: 'initial' adds it to the initial state alone, 'segments' before
      each segment.
    symmetries: images of each Sudoku or maze that are predicted, itself first,
      and turned back.
    choose: rule that takes an answer of a Sudoku or maze: 'q' the one with the
      highest q_halt; 'vote' the answer with the highest sum of sigmoid(q_halt);
      'frequent' the answer that comes most often; 'valid' as 'q' among those
      that solve the puzzle, where there are some. ARC tasks are voted on as
      always, by all of their predictions.
    seed: seed of the noise.
    ensemble: checkpoints that predict each puzzle too, as often: steps of the
      same run, or paths that `hrm_jax.load` takes.
  """

  rollouts: int = 1
  noise: float = 0.0
  noise_at: Literal['initial', 'segments'] = 'segments'
  symmetries: int = 1
  choose: Literal['q', 'vote', 'frequent', 'valid'] = 'vote'
  seed: int = 0
  ensemble: tuple[str, ...] = ()

  def _check(self) -> None:
    self._at_least(1, 'rollouts', 'symmetries')
    self._at_least(0, 'noise', 'seed')
    if self.rollouts > 1 and not self.noise:
      raise ConfigError(
        f'rollouts={self.rollouts} without noise are all alike; set noise, '
        'e.g. to 0.1'
      )


@dataclasses.dataclass(frozen=True)
class Fitting(_Group):
  """How tasks that were never trained on get rows of the puzzle table.

  Attributes:
    adapt: 'all' fits new rows and a copy of the trunk; 'rows' fits new rows
      with the trunk frozen; 'none' fits nothing and uses the blank row.
    steps: number of training steps, for all new tasks together.
    seconds: time limit of the fitting, compilation included; None for none.
    num_aug: number of augmentations of a new task besides itself, each with a
      row and a vote of its own.
    seed: seed of the augmentations and of the order of the demonstrations.
    rows_first: fraction of the steps of 'all' in which rows alone learn.
    new_rows: what new rows start from, as `Settings.new_rows`.
    old_share: fraction of each batch that is of tasks that the model knows, as
      `Settings.old_share`.
  """

  adapt: Literal['all', 'rows', 'none'] = 'all'
  steps: int = 300
  seconds: float | None = None
  num_aug: int = 30
  seed: int = 0
  rows_first: float = 0.25
  new_rows: Literal['zero', 'mean'] = 'zero'
  old_share: float = 0.0

  def _check(self) -> None:
    self._at_least(1, 'steps')


@dataclasses.dataclass(frozen=True)
class Settings(_Group):
  """All settings of an experiment.

  Attributes:
    seed: seed of the parameters, the order of the puzzles and exploration.
    batch_size: number of rows of a training step.
    start_from: run, or checkpoint of the published code, whose weights the
      first step starts from; '' for fresh ones. Puzzles that it knows by name,
      and tasks by their demonstrations too, keep their rows of the table.
    new_rows: what the rows of other puzzles start from: zeros, or the mean of
      the rows that `start_from` has.
    old_share: fraction of each batch that is of the tasks of ARC that
      `start_from` was trained on, whose rows then stay in the table.
    epochs: length of the run by the paper's rule, floor(epochs × groups × mean
      examples per puzzle / batch size), where `total_steps` is 0.
    total_steps: length of the run in optimizer steps; 0 for `epochs`.
    steps_per_call: number of steps that the device does in one call, whose
      dispatch is paid once. The numbers are those of one at a time. A notice
      to stop waits for the end of a call. Where an evaluation, a checkpoint or
      the end comes before a call would end, the steps up to it are done one at
      a time.
    stop_at_step: step at which this call ends, to go on later; 0 for the end.
    stop_at_accuracy: fraction of exactly solved training puzzles, over one
      line of metrics, after which training ends; 0 for never. The published
      code asks for this on Sudoku, where Q values become unstable late.
    stop_at_score: value of `best_metric` at or above which an evaluation ends
      training; 0 for never.
    log_every: number of steps that one line of metrics sums up; 0 for never.
    evaluate_every: number of steps between evaluations; 0 for never.
    checkpoint_every: number of steps between checkpoints; 0 for the end alone.
    keep_checkpoints: number of newest checkpoints that stay.
    keep_best: number of checkpoints of the highest `best_metric` that stay too.
    best_metric: name of the evaluation's metric that they are chosen by, and
      that `stop_at_score` is about.
    keep_every: checkpoints of steps that this number divides stay too; 0: none.
    microbatches: number of parts that a batch is computed in, one after the
      other: less memory for the same update.
    loss: loss of a cell.
    model: the model; its class tells its kind.
    divergence: what is done about a loss or gradient that is not finite.
    mesh: how the devices share the work.
    data: the puzzles.
    act: how rows halt.
    optimizer: rates and decay.
    evaluation: how the held-out puzzles are predicted.
  """

  seed: int = 0
  batch_size: int = 768
  start_from: str = ''
  new_rows: Literal['zero', 'mean'] = 'zero'
  old_share: float = 0.0
  epochs: int = 100_000
  total_steps: int = 0
  steps_per_call: int = 1
  stop_at_step: int = 0
  stop_at_accuracy: float = 0.0
  stop_at_score: float = 0.0
  log_every: int = 100
  evaluate_every: int = 0
  checkpoint_every: int = 1000
  keep_checkpoints: int = 3
  keep_best: int = 0
  best_metric: str = 'exact'
  keep_every: int = 0
  microbatches: int = 1
  loss: Literal['stablemax', 'softmax'] = 'stablemax'
  divergence: DivergenceSettings = DivergenceSettings()
  mesh: MeshSettings = MeshSettings()
  data: DataSettings = DataSettings()
  model: ModelSettings = HRMSettings()
  act: ActSettings = ActSettings()
  optimizer: OptimizerSettings = OptimizerSettings()
  evaluation: EvaluationSettings = EvaluationSettings()

  def _check(self) -> None:
    self._at_least(
      0, 'stop_at_step', 'log_every', 'evaluate_every', 'checkpoint_every',
      told='; 0 is never',
    )  # fmt: skip
    self._at_least(0, 'seed', 'keep_best', 'keep_every')
    self._at_least(1, 'keep_checkpoints', 'steps_per_call')
    for name in ('evaluate_every', 'checkpoint_every'):
      if 0 < (every := getattr(self, name)) < self.steps_per_call:
        raise ConfigError(
          f'steps_per_call={self.steps_per_call} is more than {name}={every}: '
          'no call would be that long; lower it'
        )
    self._at_least(1, 'microbatches', told=', the whole batch at once')
    for name in ('stop_at_accuracy', 'stop_at_score'):
      if not 0 <= (value := getattr(self, name)) <= 1:
        raise ConfigError(f'{name}={value} must lie in [0, 1]; 0 is never')
    if not 0 <= self.old_share < 1 or (self.old_share and not self.start_from):
      raise ConfigError(
        f'old_share={self.old_share} must lie in [0, 1), and needs start_from'
      )
    if self.stop_at_accuracy and not self.log_every:
      raise ConfigError(
        f'stop_at_accuracy={self.stop_at_accuracy} is looked at once in '
        'log_every steps, which is 0; set log_every'
      )
    if self.scored and not self.evaluate_every:
      raise ConfigError(
        'keep_best and stop_at_score need evaluations to go by; set '
        'evaluate_every'
      )
    if not self.model.recurrent and (
      self.act.halt_max_steps > 1 or self.act.halting != 'none'
    ):
      raise ConfigError(
        'the model predicts directly: it has no segments to halt after; set '
        "act.halt_max_steps=1 and act.halting='none'"
      )

  @property
  def scored(self) -> bool:
    """Whether `best_metric` of the evaluations counts for something."""
    return bool(self.keep_best or self.stop_at_score)

  def of_length(self, steps: int) -> 'Settings':
    """The settings for so many steps: rates rise for a tenth of them, a tenth
    of the rates is left at the end, and ten checkpoints are made."""
    return self.replace(
      {
        'total_steps': steps,
        'checkpoint_every': max(1, steps // 10, self.steps_per_call),
        'optimizer.warmup_steps': round(0.1 * steps),
        'optimizer.min_ratio': 0.1,
      }
    )

  @classmethod
  def published(cls, kind: str = 'hrm') -> 'Settings':
    """A model's published settings for ARC, without data; see `MODELS`."""
    act, optimizer = ActSettings(), OptimizerSettings()
    if kind == 'direct':
      act = ActSettings(halt_max_steps=1, halting='none')
    elif kind == 'trm':
      act = ActSettings(halting='halt_only')
      optimizer = OptimizerSettings(ema_decay=0.999)
    elif kind == 'urm':
      act = ActSettings(halting='halt_only')
      optimizer = OptimizerSettings(ema_decay=0.999, first_step=0)
    return cls(model=MODELS[kind](), act=act, optimizer=optimizer)

  def to_dict(self) -> dict[str, Any]:
    """The settings as nested dictionaries of plain values."""
    fields = dataclasses.asdict(self)
    return fields | {'model': {'kind': self.model.kind, **fields['model']}}

  def replace(self, changes: Mapping[str, Any]) -> Self:
    """The settings with some changed, e.g. {'model.attention': 'auto'}."""
    top, groups = dict[str, Any](), dict[str, dict[str, Any]]()
    for key, value in changes.items():
      name, _, field = key.partition('.')
      group = getattr(self, name, None)
      if not isinstance(group, _Group):
        group, field = self, key
      if field not in {known.name for known in dataclasses.fields(group)}:
        raise ConfigError(f"setting '{key}' is not known")
      (top if group is self else groups.setdefault(name, {}))[field] = value
    for name, fields in groups.items():
      top[name] = dataclasses.replace(getattr(self, name), **fields)
    return dataclasses.replace(self, **top)

  @classmethod
  def from_config(cls, config: Any) -> 'Settings':
    """The settings of a ConfigDict (or dictionaries), which names them all."""
    given = flat(config if isinstance(config, Mapping) else config.to_dict())
    kind = given.pop('model.kind', None)
    if kind not in [*MODELS]:
      raise ConfigError(
        f'config: model.kind={kind!r} is unknown; use one of '
        + ', '.join(MODELS)
      )
    defaults = cls.published(kind)
    known = flat(defaults.to_dict()).keys() - {'model.kind'}
    if differing := sorted(known ^ given.keys()):
      problems = ', '.join(
        f'{key} is {"missing" if key in known else "not known"}'
        for key in differing
      )
      raise ConfigError(
        f'config: {problems}; a config of model.kind={kind} is '
        f'--config=FILE.py:{kind}, one of your own starts from '
        f'experiments.configs.base.get_config({kind!r})'
      )
    return defaults.replace(given)

  @classmethod
  def from_record(cls, fields: Mapping[str, Any], path: Any) -> 'Settings':
    """The settings that an earlier version may have written to `path`.

    Settings that have been added since take the published values.

    Raises:
      ConfigError: a setting is unknown to this version, or cannot be used.
    """
    given = flat(fields)
    kind = given.pop('model.kind', 'hrm')
    use = 'use the version of hrm_jax that wrote it'
    if kind not in [*MODELS]:
      raise ConfigError(f'{path}: model.kind={kind!r} is not known; {use}')
    if given.get('model.fusion') == 'level':
      # Earlier versions also had a kernel of a whole level.
      given['model.fusion'] = 'block'
    defaults = cls.published(kind)
    for key in given.keys() - flat(defaults.to_dict()).keys():
      if isinstance(getattr(defaults, key, None), _Group):
        raise ConfigError(
          f'{path}: {key}={given[key]!r} must be an object; mend this file'
        )
      raise ConfigError(f'{path}: setting {key!r} is not known; {use}')
    try:
      return defaults.replace(given)
    except ConfigError as error:
      raise ConfigError(f'{path}: {error}; mend this file') from None


def flat(fields: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
  """Nested settings by dotted keys."""
  out: dict[str, Any] = {}
  for key, value in fields.items():
    is_group = isinstance(value, Mapping)
    key = f'{prefix}{key}'
    out |= flat(value, f'{key}.') if is_group else {key: value}
  return out
