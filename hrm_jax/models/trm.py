"""The Tiny Recursive Model (arXiv 2510.04871)."""

from hrm_jax.models.layers import Level
from hrm_jax.models.two_state import TwoStateModel


class TRM(TwoStateModel):
  """One level updates both states.

  Attributes (beside those of `TwoStateModel`):
    layers: blocks of the level.
    mlp_t: tokens are mixed by an MLP over them instead of by attention.
  """

  puzzle_emb_len: int = 16
  H_cycles: int = 3
  L_cycles: int = 4
  gradient: str = 'last_cycle'
  layers: int = 2
  mlp_t: bool = False

  def setup(self):
    super().setup()
    # Named as in the published code.
    self.L_level = self._level(self.layers, self.mlp_t)

  def levels(self) -> tuple[Level, Level]:
    return self.L_level, self.L_level

  def level_sizes(self) -> tuple[int, int]:
    return self.layers, self.layers
