"""Results that others published, each with its source; nothing measured here.

A figure is the percentage of held-out puzzles solved exactly, by the rule of
its benchmark unless its note says otherwise.
"""

from typing import NamedTuple

# The rule of each benchmark's figures.
BENCHMARKS = {
  'ARC-1': 'two attempts at each test input, the 400 public evaluation tasks',
  'ARC-2': 'two attempts at each test input, the 120 public evaluation tasks',
  'Sudoku-Extreme 1k': 'one answer, all 422,786 test puzzles, 1,000 trained on',
  'Maze-Hard': 'one answer, all 1,000 test mazes, 1,000 trained on',
}

SOURCES = {
  'HRM': 'arXiv 2506.21734, Hierarchical Reasoning Model',
  'TRM': 'arXiv 2510.04871, Less is More: Recursive Reasoning with Tiny '
  'Networks',
  'CompressARC': 'arXiv 2512.06104, Liao & Gu, ARC-AGI Without Pretraining',
  'ARC Prize': 'arcprize.org/blog/hrm-analysis',
}


class Figure(NamedTuple):
  """One published figure.

  Attributes:
    system: name of the system.
    parameters: number of parameters as published, without puzzle embeddings.
    benchmark: a key of `BENCHMARKS`.
    text: the percentage as published.
    source: a key of `SOURCES`.
    note: what must be known to read the figure; empty for nothing.
  """

  system: str
  parameters: str
  benchmark: str
  text: str
  source: str
  note: str = ''


_DIRECT = 'direct prediction, 8-layer transformer'
_MLP = 'TRM mlp_t'
_LIAO_GU = 'Liao & Gu (CompressARC), one 76K network per task'
_SEMI_PRIVATE = 'on the semi-private set, not on the public one'

FIGURES = (
  Figure('HRM', '27M', 'ARC-1', '40.3', 'HRM'),
  Figure('HRM', '27M', 'ARC-2', '5.0', 'HRM'),
  Figure(
    'HRM', '27M', 'Sudoku-Extreme 1k', '55.0', 'HRM',
    'reruns gave 45.8, 55.4 and 57.5',
  ),
  Figure('HRM', '27M', 'Maze-Hard', '74.5', 'HRM'),
  Figure(
    'HRM, ARC Prize semi-private', '27M', 'ARC-1', '32', 'ARC Prize',
    _SEMI_PRIVATE,
  ),
  Figure(
    'HRM, ARC Prize semi-private', '27M', 'ARC-2', '2', 'ARC Prize',
    _SEMI_PRIVATE,
  ),
  Figure(_DIRECT, '27M', 'ARC-1', '21.0', 'HRM', 'a blog table quotes 15.8'),
  Figure(_DIRECT, '27M', 'ARC-2', '0.0', 'HRM'),
  Figure(_DIRECT, '27M', 'Sudoku-Extreme 1k', '0', 'HRM'),
  Figure(_DIRECT, '27M', 'Maze-Hard', '0', 'HRM'),
  Figure('TRM attention', '7M', 'ARC-1', '44.6', 'TRM'),
  Figure('TRM attention', '7M', 'ARC-2', '7.8', 'TRM'),
  Figure('TRM attention', '7M', 'Sudoku-Extreme 1k', '74.7', 'TRM'),
  Figure('TRM attention', '7M', 'Maze-Hard', '85.3', 'TRM'),
  Figure(_MLP, '5M (ARC 19M)', 'ARC-1', '29.6', 'TRM'),
  Figure(_MLP, '5M (ARC 19M)', 'ARC-2', '2.4', 'TRM'),
  Figure(_MLP, '5M (ARC 19M)', 'Sudoku-Extreme 1k', '87.4', 'TRM'),
  Figure(_MLP, '5M (ARC 19M)', 'Maze-Hard', '0', 'TRM'),
  Figure(_LIAO_GU, '0.076M', 'ARC-1', '20.0', 'CompressARC'),
  Figure(
    _LIAO_GU, '0.076M', 'ARC-2', '~4', 'CompressARC', 'an approximate figure'
  ),
  Figure('o3-mini-high', 'not public', 'ARC-1', '34.5', 'HRM'),
  Figure(
    'o3-mini-high', 'not public', 'ARC-2', '3.0', 'HRM',
    'a blog table quotes 1.3',
  ),
  Figure('o3-mini-high', 'not public', 'Sudoku-Extreme 1k', '0', 'HRM'),
  Figure('o3-mini-high', 'not public', 'Maze-Hard', '0', 'HRM'),
  Figure('Claude 3.7, 8K', 'not public', 'ARC-1', '21.2', 'HRM'),
  Figure('Claude 3.7, 8K', 'not public', 'ARC-2', '0.9', 'HRM'),
  Figure('Claude 3.7, 8K', 'not public', 'Sudoku-Extreme 1k', '0', 'HRM'),
  Figure('Claude 3.7, 8K', 'not public', 'Maze-Hard', '0', 'HRM'),
  Figure('DeepSeek R1', '671B', 'ARC-1', '15.8', 'HRM'),
  Figure('DeepSeek R1', '671B', 'ARC-2', '1.3', 'HRM'),
  Figure('DeepSeek R1', '671B', 'Sudoku-Extreme 1k', '0', 'HRM'),
  Figure('DeepSeek R1', '671B', 'Maze-Hard', '0', 'HRM'),
)  # fmt: skip
