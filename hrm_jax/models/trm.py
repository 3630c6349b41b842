"""The Tiny Recursive Model (arXiv 2510.04871)."""

from hrm_jax.models.layers import Level
from hrm_jax.models.two_state import TwoStateModel
from hrm_jax.settings import TRMSettings


class TRM(TwoStateModel):
  """One level updates both states."""

  settings: TRMSettings

  def setup(self):
    super().setup()
    # Named as in the published code.
    self.L_level = self._level(self.settings.layers, self.settings.mlp_t)

  def levels(self) -> tuple[Level, Level]:
    return self.L_level, self.L_level
