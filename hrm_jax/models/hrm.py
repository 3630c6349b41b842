"""The Hierarchical Reasoning Model (arXiv 2506.21734, section 2)."""

from hrm_jax.models.layers import Level
from hrm_jax.models.two_state import TwoStateModel


class HRM(TwoStateModel):
  """A level of its own for each state.

  Attributes (beside those of `TwoStateModel`):
    H_layers: blocks of the high level.
    L_layers: blocks of the low level.
  """

  H_layers: int = 4
  L_layers: int = 4

  def setup(self):
    super().setup()
    self.H_level = self._level(self.H_layers)
    self.L_level = self._level(self.L_layers)

  def levels(self) -> tuple[Level, Level]:
    return self.L_level, self.H_level

  def level_sizes(self) -> tuple[int, int]:
    return self.L_layers, self.H_layers
