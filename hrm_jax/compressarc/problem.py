"""What CompressARC's network sees of a task (arXiv 2512.06104).

Shape letters: E examples, the demonstrations and then the test inputs; C
colours without black; X rows; Y columns. The last axis of two is the input and
the output grid. A problem may be padded: `sizes` tells what is real.
"""

from typing import NamedTuple

import numpy as np

from data_pipelines.arc.tasks import Task


class Problem(NamedTuple):
  """Arrays of one task, all padded to a bucket's E, C, X and Y."""

  sizes: np.ndarray  # int [4], the real E, C, X and Y
  colours: np.ndarray  # uint8 [1 + C], black at first
  demonstrations: np.ndarray  # int, how many of the examples these are
  target: np.ndarray  # int8 [E, X, Y, 2], index of the colour, 0 elsewhere
  shape: np.ndarray  # int [E, 2, 2], height and width of inputs and outputs
  uncertain: np.ndarray  # bool [2], whether these shapes are guesses
  masked_means: np.ndarray  # bool, whether means leave out cells without grid


def prepare(task: Task) -> Problem:
  """The problem of a task, unpadded; answers of test pairs are not read."""
  inputs = [pair.input for pair in task.pairs]
  outputs = [
    pair.output for pair in task.demonstrations if pair.output is not None
  ]
  known = inputs + outputs
  largest = np.max([grid.shape for grid in known], axis=0)
  same_io = all(
    i.shape == o.shape for i, o in zip(inputs, outputs, strict=False)
  )
  same_in = len({grid.shape for grid in inputs}) == 1
  same_out = len({grid.shape for grid in outputs}) == 1
  colours = np.unique([0, *np.concatenate([grid.ravel() for grid in known])])
  shape = np.zeros((len(inputs), 2, 2), np.int32)
  for example, grid in enumerate(inputs):
    shape[example] = grid.shape
    if example < len(outputs):
      shape[example, 1] = outputs[example].shape
    elif not same_io:
      shape[example, 1] = outputs[0].shape if same_out else largest
  E, (X, Y) = len(inputs), shape.max(axis=(0, 1))
  target = np.zeros((E, X, Y, 2), np.int8)
  for role, grids in enumerate((inputs, outputs)):
    for example, grid in enumerate(grids):
      height, width = grid.shape
      index = np.searchsorted(colours, grid)
      target[example, :height, :width, role] = index
  unknown = [not (same_io or same_in), not (same_io or same_out)]
  return Problem(
    sizes=np.array([E, len(colours) - 1, X, Y], np.int32),
    colours=colours.astype(np.uint8),
    demonstrations=np.array(len(outputs), np.int32),
    target=target,
    shape=shape,
    uncertain=np.array(unknown),
    masked_means=np.array(same_io or same_out),
  )


def pad(problem: Problem, sizes: tuple[int, int, int, int]) -> Problem:
  """The same problem in arrays of a bucket's E, C, X and Y."""
  E, C, X, Y = np.subtract(sizes, problem.sizes)
  return problem._replace(
    colours=np.pad(problem.colours, (0, C)),
    target=np.pad(problem.target, ((0, E), (0, X), (0, Y), (0, 0))),
    shape=np.pad(problem.shape, ((0, E), (0, 0), (0, 0))),
  )
