"""The Hierarchical Reasoning Model (arXiv 2506.21734, section 2)."""

from hrm_jax.models.layers import Level
from hrm_jax.models.two_state import TwoStateModel
from hrm_jax.settings import HRMSettings


class HRM(TwoStateModel):
  """A level of its own for each state."""

  settings: HRMSettings

  def setup(self):
    super().setup()
    self.H_level = self._level(self.settings.H_layers)
    self.L_level = self._level(self.settings.L_layers)

  def levels(self) -> tuple[Level, Level]:
    return self.L_level, self.H_level
