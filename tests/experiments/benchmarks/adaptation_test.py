"""The tasks that adaptation is measured on are in no other part."""

from data_pipelines.arc import tasks as arc
from experiments.benchmarks import adaptation as benchmark_adaptation


def test_tasks_are_split_whole(tmp_path):
  benchmark_adaptation.split(tmp_path)
  trained, held_out = (
    arc.load_tasks(str(tmp_path / part)).tasks
    for part in ('trained', 'held_out')
  )
  assert (len(trained), len(held_out)) == (45, 20)
  names = {task.name for task in held_out}
  assert not names & {task.name for task in trained}
  # What the defaults were chosen on tells nothing any more.
  assert not names & set(benchmark_adaptation.TUNED_ON)
  # Whole tasks, as they were.
  original = {task.name: task for task in arc.load_tasks('arc2').tasks}
  for task in (*trained, *held_out):
    pairs = zip(task.pairs, original[task.name].pairs, strict=True)
    for ours, theirs in pairs:
      assert (ours.input == theirs.input).all()
      assert (ours.output == theirs.output).all()
