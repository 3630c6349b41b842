"""Makes charts with matplotlib, without its start-up notes or global state."""

import logging
import pathlib
import statistics
from collections.abc import Sequence
from typing import Any

from data_pipelines import files
from experiments.cli import command

# The first start of matplotlib builds a cache of fonts and says so.
logging.getLogger('matplotlib').setLevel(logging.ERROR)
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.axis import Axis  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.ticker import PercentFormatter  # noqa: E402

QUOTED, MEASURED = '#9e9e9e', '#1565c0'
# Colours that people tell apart who do not see all of them (Okabe & Ito).
LINES = (
  '#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9', '#000000',
)  # fmt: skip
_DPI = 120


def figure(width: float, height: float) -> Figure:
  """Makes an empty figure; its sizes are in inches, and it lays itself out."""
  return Figure(figsize=(width, height), dpi=_DPI, layout='constrained')


def show_percent(axis: Axis) -> None:
  """Labels an axis of fractions in percent."""
  axis.set_major_formatter(PercentFormatter(1.0))


def line(
  axes: Axes, places: Sequence[float], values: Sequence[Sequence[float]],
  colour: str, **style: Any,
) -> None:  # fmt: skip
  """Draws the means of several runs' values at each place, and their band."""
  means = list(map(statistics.mean, values))
  axes.plot(places, means, color=colour, marker='o', markersize=3.5, **style)
  if len(values[0]) > 1:
    low, high = list(map(min, values)), list(map(max, values))
    axes.fill_between(places, low, high, color=colour, alpha=0.18, linewidth=0)
  axes.grid(alpha=0.3)
  axes.spines[['top', 'right']].set_visible(False)


def save(drawn: Figure, path: pathlib.Path) -> None:
  """Writes a figure as a PNG, whole or not at all."""
  with command.writing(path), files.replacing(path) as part:
    drawn.savefig(part, format='png')
