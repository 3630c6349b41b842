"""The kinds of puzzles with one answer: a new one is a line here."""

from data_pipelines.questions import maze, sudoku
from data_pipelines.questions.domain import Kind

KINDS: dict[str, Kind] = {'sudoku': sudoku.KIND, 'maze': maze.KIND}
