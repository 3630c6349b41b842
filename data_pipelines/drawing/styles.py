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
  """How the values of a grid are drawn.

  Attributes:
    colours: colour of each value.
    texts: text that is written into the cells of each value.
    line: colour of the lines between cells.
    box: rows and columns of cells between heavier lines; None for none.
    shape: rows and columns of a canvas; None for a square.
  """

  colours: Sequence[str]
  texts: Sequence[str]
  line: str = GRID_LINE
  box: tuple[int, int] | None = None
  shape: tuple[int, int] | None = None


ARC_GRID = Style(PALETTE, [''] * len(PALETTE))
# Padding is blank, end-of-grid marks are violet.
ARC_CANVAS = Style([PAPER, '#b39ddb', *PALETTE], [''] * VOCAB_SIZE, '#cccccc')
