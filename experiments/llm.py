"""Asks a language model to solve puzzles.

  hrm-jax llm --model=NAME --task=SPEC --out=DIR [--base_url=URL]
      [--attempts=2] [--budget=DOLLARS --input_price=P --output_price=P]

Any endpoint that speaks the OpenAI chat protocol is asked for each test input
of ARC tasks, each Sudoku or each maze, that is shown as text. SPEC is what
`hrm-jax predict` takes. The key comes from the environment variable
OPENAI_API_KEY alone, and is never written.

Every reply is kept in DIR/replies.jsonl at once: the same command goes on from
there, and asks nothing that was answered. DIR also gets what `hrm-jax predict`
writes, and scores.json has the tokens and the cost; `hrm-jax compare` reads it.
"""

import dataclasses
import json
import os
import pathlib
import shlex
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import flags

import hrm_jax.solver
from data_pipelines import as_text, puzzles
from data_pipelines.arc import voting
from data_pipelines.arc.scoring import score_metrics
from data_pipelines.arc.tasks import TaskSet
from data_pipelines.arc.voting import Candidate
from data_pipelines.as_text import Prompt
from data_pipelines.errors import ConfigError, DataError
from data_pipelines.questions.domain import Questions
from data_pipelines.questions.pipeline import QuestionSet
from data_pipelines.scoring import Predictions
from experiments.cli import command, shared_flags
from experiments.language_models import asking
from experiments.language_models.asking import Plan
from experiments.language_models.journal import Journal, Unit
from experiments.reporting import evaluation_files
from hrm_jax.workdir import lock

# The exit code of a run that another start goes on with, as of training.
_AGAIN = 75
# Replies without an answer that are told, and what the scores of a network
# have and these have not.
_MAX_TOLD, _OF_NETWORKS = 5, ('steps', 'confidence')

FLAGS = shared_flags.define('task')
shared_flags.path(
  'out', None, 'Directory that gets the replies and the answers.', FLAGS
)
for _kind, _name, _help, _least in (
  (flags.DEFINE_string, 'model',
   'Name of the model, as the endpoint knows it.', None),
  (flags.DEFINE_string, 'base_url',
   'Address of the endpoint, such as http://localhost:8000/v1.', None),
  (flags.DEFINE_string, 'extra',
   'Other fields of each request as JSON, such as '
   '{"reasoning_effort": "high"}.', None),
  (flags.DEFINE_integer, 'attempts',
   'Number of times that each test input is asked.', 1),
  (flags.DEFINE_integer, 'max_tokens',
   'Greatest number of tokens of a reply, reasoning included.', 1),
  (flags.DEFINE_integer, 'concurrency',
   'Greatest number of requests at a time.', 1),
  (flags.DEFINE_float, 'requests_per_minute',
   'Greatest number of requests per minute; unlimited if unset.', 0.01),
  (flags.DEFINE_float, 'timeout',
   'Greatest time of a request in seconds.', 0.1),
  (flags.DEFINE_integer, 'retries',
   'Number of times that a request is sent again after what may pass.', 0),
  (flags.DEFINE_float, 'input_price',
   'Price of a million tokens that the model reads, in dollars.', 0),
  (flags.DEFINE_float, 'output_price',
   'Price of a million tokens that the model writes, in dollars.', 0),
  (flags.DEFINE_float, 'budget',
   'Greatest cost of all requests that --out ever has, in dollars; unlimited '
   'if unset.', 0),
):  # fmt: skip
  _options = {} if _least is None else {'lower_bound': _least}
  _usual = getattr(Plan, _name, None)
  _kind(
    _name, '{}' if _name == 'extra' else _usual, _help, flag_values=FLAGS,
    **_options,
  )  # fmt: skip
for _name, _example in (
  ('task', 'my_task.json'), ('out', 'asked'), ('model', 'gpt-4o')
):  # fmt: skip
  shared_flags.require(FLAGS, _name, _example)


def main(_) -> int | None:
  try:
    extra = json.loads(FLAGS.extra)
  except ValueError:
    extra = None
  if not isinstance(extra, dict):
    raise ConfigError(
      '--extra is no JSON object; give one such as {"reasoning_effort": "high"}'
    )
  given = {field.name for field in dataclasses.fields(Plan)} & {*FLAGS}
  values = shared_flags.values(FLAGS, tuple(given))
  return run(FLAGS.task, FLAGS.out, Plan(**values | {'extra': extra}))


def run(spec: str, out: pathlib.Path, plan: Plan) -> int | None:
  """Asks, scores and writes; the arguments are the command's flags.

  Returns:
    The exit code: 75 where not every reply is there yet.

  Raises:
    ConfigError, DataError: the puzzles or the endpoint cannot be used, or `out`
      has other work.
  """
  key = os.environ.get('OPENAI_API_KEY', '').strip()
  plan.check(key)
  asking.client_library()
  given = hrm_jax.solver.read(spec).puzzles
  prompts = [*as_text.prompts(given)]
  work = plan.work() | {'puzzles': given.version}
  with lock.hold(out):
    journal = Journal(out, work, key)
    if isinstance(given, TaskSet):
      # Whole from now on, whatever ends the work.
      evaluation_files.promise(given.tasks, out)
    stopped = asking.ask(prompts, plan, journal, key)
    found = [_read(prompt, plan, journal) for prompt in prompts]
    facts = _facts(spec, given, found, plan, journal)
    write = _write_tasks if isinstance(given, TaskSet) else _write_questions
    text = write(out, given, found, facts)
  command.say(f'\n{text}')
  for line in facts['without_answer'][:_MAX_TOLD]:
    command.say(
      'No answer in {puzzle}, test {test}, attempt {attempt}: {why}'.format(
        **line
      )
    )
  cost = '' if facts['cost'] is None else f', ${facts["cost"]:.4f}'
  print('{:,} tokens read and {:,} written'.format(*facts['tokens']) + cost)
  if stopped:
    command.say(
      f'Ended by {stopped}: {facts["unanswered"]} attempts have no reply and '
      'count as wrong; the same command goes on'
    )
  command.say(f'Written to {out}')
  return _AGAIN if stopped else None


class _Found(NamedTuple):
  """What came back for a test input: of each attempt a grid, or None and why.

  Where there was no reply, the reason is empty.
  """

  prompt: Prompt
  grids: list[np.ndarray | None]
  why: list[str]


def _read(prompt: Prompt, plan: Plan, journal: Journal) -> _Found:
  found = _Found(prompt, [], [])
  for attempt in range(1, plan.attempts + 1):
    line = journal.replies.get(Unit(prompt.puzzle, prompt.test, attempt))
    grid, why = None, ''
    if line:
      choice = line['body']['choices'][0]
      reply, ended = choice['message'], choice.get('finish_reason')
      try:
        if (said := reply.get('refusal')) or ended == 'content_filter':
          raise DataError(f'refused, {said or "by a content filter"}')
        grid = prompt.read(reply.get('content') or '')
      except DataError as error:
        why = ' '.join(str(error).split())[:200]
        if ended == 'length':
          why = f'cut off at --max_tokens={plan.max_tokens}, {why}'
    found.grids.append(grid)
    found.why.append(why)
  return found


def _facts(
  spec: str,
  given: TaskSet | Questions,
  found: Sequence[_Found],
  plan: Plan,
  journal: Journal,
) -> dict[str, Any]:
  """What scores.json has beside the scores."""
  lines = journal.replies.values()
  dates = sorted(line['date'] for line in lines)
  names = {one.prompt.puzzle for one in found}
  answered = sum(unit.attempt <= plan.attempts for unit in journal.replies)
  tokens = journal.total()
  cost = plan.cost(tokens)
  return {
    **plan.work(),
    'answered_as': sorted({str(line['body'].get('model')) for line in lines}),
    'attempts': plan.attempts,
    'puzzles': given.version,
    'number_of_puzzles': len(names),
    'dates': [*dates[:1], *dates[1:][-1:]],
    'requests': len(journal.tokens),
    'unanswered': len(found) * plan.attempts - answered,
    'without_answer': [
      {'puzzle': one.prompt.puzzle, 'test': one.prompt.test + 1,
       'attempt': attempt, 'why': why}
      for one in found
      for attempt, why in enumerate(one.why, 1)
      if why
    ],
    'tokens': tokens,
    'prices': [plan.input_price, plan.output_price],
    'cost': cost,
    'cost_per_puzzle': None if cost is None else cost / len(names),
    'command': _command(spec, plan),
  }  # fmt: skip


def _command(spec: str, plan: Plan) -> str:
  """The command that asks the same."""
  words = {'model': plan.model, 'task': spec, 'base_url': plan.base_url}
  words |= {'attempts': plan.attempts, 'max_tokens': plan.max_tokens}
  if plan.extra:
    words['extra'] = json.dumps(plan.extra)
  given = (shlex.quote(f'--{name}={word}') for name, word in words.items())
  return ' '.join(['hrm-jax llm', *given, '--out=DIR'])


def _write_tasks(
  out: pathlib.Path,
  given: TaskSet,
  found: Sequence[_Found],
  facts: dict[str, Any],
) -> str:
  """Writes the answers to tasks of ARC, and tells their scores."""
  candidates, firsts = {}, {}
  for prompt, grids, _ in found:
    same: dict[Any, list[np.ndarray]] = {}
    for grid in grids:
      if grid is not None:
        same.setdefault((grid.shape, grid.tobytes()), []).append(grid)
    key, attempts = (prompt.puzzle, prompt.test), len(grids)
    candidates[key] = [
      Candidate(alike[0], len(alike), len(alike) / attempts)
      for alike in same.values()
    ]
    # Where the first attempt is no grid, the second one is not the first.
    firsts[key] = candidates[key][:1] if grids[0] is not None else []
  scores = voting.score(firsts, given.tasks, [1])
  scores |= voting.score(candidates, given.tasks, [attempts])
  if scores[1].outputs.scored:
    facts = facts | score_metrics(scores)
  evaluation_files.write_votes(out, given.tasks, candidates, facts, given.tasks)
  return voting.format_scores(scores)


def _write_questions(
  out: pathlib.Path,
  given: Questions,
  found: Sequence[_Found],
  facts: dict[str, Any],
) -> str:
  """Writes the first answers to Sudokus or mazes, and tells all scores."""
  held_out = QuestionSet(None, given, 0, 0)
  rows = held_out.evaluation_rows()
  results = []
  for grids in zip(*(one.grids for one in found), strict=True):
    tokens = np.zeros_like(given.answers)
    for row, grid in enumerate(grids):
      if grid is not None:
        tokens[row] = grid.ravel()
    right = tokens == given.answers
    judge = puzzles.judge_of(held_out, rows)
    answered = np.array([grid is not None for grid in grids])
    judge.add(
      Predictions(
        tokens=tokens,
        q_halt=np.where(answered, np.inf, -np.inf),
        steps=np.ones(len(tokens), np.int32),
        exact=right.all(axis=1),
        accuracy=right.mean(axis=1),
      )
    )
    results.append(judge.result())
  first, attempts = results[0], len(results)
  metrics = {k: v for k, v in first.metrics.items() if k != 'eval/steps'}
  lines = [f'One attempt: {first.summary()}']
  if attempts > 1:
    counts = []
    for name in ('exact', 'valid'):
      any_of = np.any([one.found[name] for one in results], axis=0)
      metrics[f'eval/{name}@{attempts}'] = float(any_of.mean())
      counts.append(f'{name} {any_of.sum()}/{len(any_of)}')
    lines.append(f'One of {attempts} attempts: {", ".join(counts)}')
  shown = {k: v for k, v in first.found.items() if k not in _OF_NETWORKS}
  evaluation_files.write_answers(
    out, dataclasses.replace(first, found=shown), facts | metrics
  )
  return '\n'.join(lines)


if __name__ == '__main__':
  command.run(main, FLAGS)
