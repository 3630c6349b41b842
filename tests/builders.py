"""Models and runs of the tests, from the fields that matter to them."""

from hrm_jax import build, training_run
from hrm_jax.settings import MODELS, Settings


def model(kind, vocab_size, seq_len, dtype='float32', **fields):
  """A model in float32, of the published sizes but for these fields."""
  return build.model(MODELS[kind](dtype=dtype, **fields), vocab_size, seq_len)


def settings(config):
  """The settings of a config; settings are left as they are."""
  if isinstance(config, Settings):
    return config
  return Settings.from_config(config)


def train(config, workdir, notice=None, **options):
  """Trains as `experiments.train` does, a config or settings."""
  return training_run.train(settings(config), workdir, notice, **options)
