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
_SEMI_PRIVATE = 'HRM, ARC Prize semi-private'
_LIAO_GU = 'Liao & Gu (CompressARC), one 76K network per task'

# System, parameters, source, and a figure for each of `BENCHMARKS`.
_ROWS = (
  ('HRM', '27M', 'HRM', '40.3', '5.0', '55.0', '74.5'),
  (_SEMI_PRIVATE, '27M', 'ARC Prize', '32', '2', '', ''),
  (_DIRECT, '27M', 'HRM', '21.0', '0.0', '0', '0'),
  ('TRM attention', '7M', 'TRM', '44.6', '7.8', '74.7', '85.3'),
  ('TRM mlp_t', '5M (ARC 19M)', 'TRM', '29.6', '2.4', '87.4', '0'),
  (_LIAO_GU, '0.076M', 'CompressARC', '20.0', '~4', '', ''),
  ('o3-mini-high', 'not public', 'HRM', '34.5', '3.0', '0', '0'),
  ('Claude 3.7, 8K', 'not public', 'HRM', '21.2', '0.9', '0', '0'),
  ('DeepSeek R1', '671B', 'HRM', '15.8', '1.3', '0', '0'),
)
_NOTES = {
  ('HRM', 'Sudoku-Extreme 1k'): 'reruns gave 45.8, 55.4 and 57.5',
  (_SEMI_PRIVATE, 'ARC-1'): 'on the semi-private set, not on the public one',
  (_SEMI_PRIVATE, 'ARC-2'): 'on the semi-private set, not on the public one',
  (_DIRECT, 'ARC-1'): 'a blog table quotes 15.8',
  (_LIAO_GU, 'ARC-2'): 'an approximate figure',
  ('o3-mini-high', 'ARC-2'): 'a blog table quotes 1.3',
}

FIGURES = tuple(
  Figure(
    *(system, parameters, benchmark, text, source),
    note=_NOTES.get((system, benchmark), ''),
  )
  for system, parameters, source, *texts in _ROWS
  for benchmark, text in zip(BENCHMARKS, texts, strict=True)
  if text
)
