"""How the values of grids are drawn: colours, texts and lines."""

from collections.abc import Sequence
from typing import NamedTuple

from data_pipelines.arc.encoding import VOCAB_SIZE

# The colours 0 to 9 as arcprize.org shows them.
PALETTE = (
  '#000000', '#0074d9', '#ff4136', '#2ecc40', '#ffdc00',
  '#aaaaaa', '#f012be', '#ff851b', '#7fdbff', '#870c25',
)  # fmt: skip

PAPER, INK, FAINT, RULE = '#ffffff', '#222222', '#777777', '#d0d0d0'
SOLVED, WRONG = '#1a7f37', '#c62828'
GRID_LINE = '#555555'


class Style(NamedTuple):
  """How the values of a grid are drawn."""

  colours: Sequence[str]  # of each value
  texts: Sequence[str]  # what is written into the cells of each value
  line: str = GRID_LINE  # colour of the lines between cells
  # Rows and columns of cells between heavier lines, and of a canvas that is no
  # square.
  box: tuple[int, int] | None = None
  shape: tuple[int, int] | None = None


ARC_GRID = Style(PALETTE, [''] * len(PALETTE))
# Padding is blank, end-of-grid marks are violet.
ARC_CANVAS = Style([PAPER, '#b39ddb', *PALETTE], [''] * VOCAB_SIZE, '#cccccc')
