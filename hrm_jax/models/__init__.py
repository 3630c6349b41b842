"""The models: Linen modules that share one interface.

* `embed(inputs_BS, puzzles_BE)` → x_BTD, the input that every update sees;
* `segment(z, x_BTD)` → z, one forward pass of the paper (section 2);
* `segment_without_gradient(z, x_BTD)` → z, the same for predictions;
* `walk(z, x_BTD, look)` → (z, seen), that segment looked at after each update;
* `heads(z)` → (logits_BSV, q_B2), with q = (q_halt, q_continue) in float32;
* `initial_state(batch_size)` → z of a fresh sequence, from the collection
  `constants`, which is stored with the parameters and never trained.

Shape letters, used as suffixes everywhere:
  B batch rows            D hidden size        V vocabulary
  S cells of a puzzle     N attention heads    F MLP width
  P puzzle prefix tokens  K = D / N head size  E puzzle embedding size
  T = P + S tokens        A augmentations      R rows of the puzzle table
"""

from hrm_jax.models.base import ReasoningModel
from hrm_jax.models.transformer import URM, Direct, RecurrentTransformer
from hrm_jax.models.two_state import HRM, TRM, TwoStateModel

__all__ = [
  'HRM',
  'TRM',
  'URM',
  'Direct',
  'RecurrentTransformer',
  'TwoStateModel',
]

# By the name that `config.model.kind` gives.
KINDS: dict[str, type[ReasoningModel]] = {
  'hrm': HRM,
  'direct': Direct,
  'recurrent_transformer': RecurrentTransformer,
  'trm': TRM,
  'urm': URM,
}
