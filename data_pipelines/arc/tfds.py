"""ARC as a TFDS data set: importing this module registers `arc_tasks`.

    import tensorflow_datasets as tfds
    from data_pipelines.arc.tfds import ArcConfig

    tfds.load('arc_tasks/arc1', split='training')

    config = ArcConfig(name='mine', splits={'mine': 'path/to/tasks'})
    tfds.load('arc_tasks', builder_kwargs={'config': config})

`arc_tasks/concept` is ConceptARC, where the environment variable CONCEPT_ARC
says. Nothing is downloaded. TFDS prepares a data set once under its name: give
data that has changed another name, or delete the prepared folder. What it was
made from is in `info.metadata`, one version for each split.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np

from data_pipelines import citations, quiet
from data_pipelines.arc import tasks as arc

quiet.tensorflow()  # TFDS would import it with all its start-up notes.
import tensorflow_datasets as tfds  # noqa: E402

_DESCRIPTION = """
Tasks of the Abstraction and Reasoning Corpus (ARC): a hidden rule turns each
input grid into its output grid. Each example is one pair of grids, of colours 0
to 9; an output that is not known has the shape (0, 0).
"""

_CITATION = """
@article{chollet2019measure,
  title={On the Measure of Intelligence},
  author={Chollet, Fran{\\c{c}}ois},
  journal={arXiv preprint arXiv:1911.01547},
  year={2019}
}
"""

_UNKNOWN = np.zeros((0, 0), np.uint8)


@dataclasses.dataclass(eq=False, kw_only=True)
class ArcConfig(tfds.core.BuilderConfig):
  """Which tasks: for each split, a spec as `arc.load_tasks` takes it."""

  splits: dict[str, str]


def _bundled(name: str, description: str) -> ArcConfig:
  splits = {subset: f'{name}:{subset}' for subset in arc.SUBSETS}
  return ArcConfig(name=name, description=description, splits=splits)


class ArcTasks(tfds.core.GeneratorBasedBuilder):
  """One example for each pair of each task, in the order of the source."""

  VERSION = tfds.core.Version('1.0.0')
  BUILDER_CONFIGS: ClassVar = [
    _bundled('arc1', 'ARC-AGI-1: 400 training and 400 evaluation tasks.'),
    _bundled('arc2', 'ARC-AGI-2: 1000 training and 120 evaluation tasks.'),
    ArcConfig(
      name='concept',
      description='ConceptARC: 160 tasks, 10 for each of 16 concepts.',
      splits={'corpus': arc.CONCEPT},
    ),
  ]

  def _info(self) -> tfds.core.DatasetInfo:
    grid = tfds.features.Tensor(
      shape=(None, None), dtype=np.uint8, encoding='zlib'
    )
    return tfds.core.DatasetInfo(
      builder=self,
      description=_DESCRIPTION,
      homepage='https://arcprize.org/arc-agi',
      citation=_CITATION + citations.HRM,
      features=tfds.features.FeaturesDict(
        {
          'task': tfds.features.Text(),
          'role': tfds.features.ClassLabel(names=['demonstration', 'test']),
          'index': np.int32,  # Among the task's pairs of the same role.
          'input': grid,
          'output': grid,
        }
      ),
      metadata=tfds.core.MetadataDict(),
      disable_shuffling=True,
    )

  def _split_generators(self, dl_manager) -> dict[str, Iterator]:
    del dl_manager  # Nothing to download.
    generators = {}
    for split, spec in self.builder_config.splits.items():
      version, tasks = arc.load_tasks(spec)
      self.info.metadata[split] = version
      generators[split] = self._generate_examples(tasks)
    return generators

  def _generate_examples(
    self, tasks: Sequence[arc.Task]
  ) -> Iterator[tuple[str, dict]]:
    for task in tasks:
      for role, pairs in (
        ('demonstration', task.demonstrations),
        ('test', task.tests),
      ):
        for i, pair in enumerate(pairs):
          output = pair.output
          example = {'task': task.name, 'role': role, 'index': i}
          example['input'] = pair.input
          example['output'] = _UNKNOWN if output is None else output
          yield f'{task.name}/{role}/{i}', example
