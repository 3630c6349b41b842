# Each target makes the virtual environment that it needs. Python 3.11 and make
# are all that a machine has to bring.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
DEMO_WORKDIR ?= runs/demo
# More flags for the demo's training; other settings want another workdir:
# make demo DEMO_WORKDIR=runs/demo1 DEMO_FLAGS=--config.seed=1
DEMO_FLAGS ?=
COMPARISON ?= runs/comparison
# Such as --recipe=speedrun:hrm --out=runs/hrm; see experiments/speedrun.py.
SPEEDRUN_FLAGS ?=
# Such as --events=50 --kinds=kill; see tests/chaos.py.
CHAOS_FLAGS ?=

.PHONY: wheel-test bundle-test demo speedrun comparison notebook test test-slow test-all chaos browser page docs lint clean

demo: .venv/installed
	$(BIN)/python -m experiments.demo --workdir=$(DEMO_WORKDIR) $(DEMO_FLAGS)

# What docs/speedrun.md reports, of its best recipe.
speedrun: .venv/installed
	$(BIN)/python -m experiments.speedrun $(SPEEDRUN_FLAGS)

# Five systems, three seeds each; RESULTS.md reports what came out.
comparison: .venv/installed
	set -e; runs=; \
	for system in hrm recurrent_transformer trm urm direct; do \
	  for seed in 0 1 2; do \
	    run=$(COMPARISON)/$${system}_$$seed; runs=$$runs,$$run; \
	    $(BIN)/python -m experiments.train --workdir=$$run \
	      --config=experiments/configs/comparison.py:$$system \
	      --config.seed=$$seed; \
	    $(BIN)/python -m experiments.evaluate --workdir=$$run; \
	  done; \
	done; \
	$(BIN)/python -m experiments.compare --runs=$${runs#,} \
	  --out=$(COMPARISON)

# Runs the notebooks anew and keeps what they show.
notebook: .venv/installed
	rm -rf runs/notebook runs/from_inside
	$(BIN)/jupyter execute --inplace experiments/notebooks/*.ipynb

# What tells a contributor that nothing broke; `test-slow` runs the rest, and
# `test-all` runs both.
PYTEST = $(BIN)/python -m pytest -n auto --maxprocesses=4 --dist=loadfile \
  --no-loadscope-reorder

test: .venv/installed
	$(PYTEST) -m "not slow"

test-slow: .venv/compilers .venv/onnx
	$(PYTEST) -m slow

test-all: .venv/compilers .venv/onnx
	$(PYTEST)

# The wheel, alone in an environment and a directory.
wheel-test: .venv/installed
	.ci/wheel

# A bundle, in an empty environment that has no network; takes minutes.
bundle-test: .venv/installed
	.ci/bundle

chaos: .venv/installed
	$(BIN)/python -m tests.chaos $(CHAOS_FLAGS)

# For the tests of the report: without a browser they are skipped.
browser:
	@if command -v chromium && command -v chromedriver; then :; \
	elif command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
	  apt-get update -qq && \
	  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
	    chromium chromium-driver; \
	else \
	  echo 'error: install Chromium and ChromeDriver so that `chromium` and' \
	    '`chromedriver` are found; on Debian: sudo make browser' >&2; exit 1; \
	fi

# The models of the page in docs/solve: those that come with the package.
page: .venv/onnx
	rm -rf docs/solve
	for folder in hrm_jax/shipped/*/weights.safetensors; do \
	  $(BIN)/python -m experiments.export --format=web --weights=float16 \
	    --workdir=$$(basename $$(dirname $$folder)) --out=docs/solve || exit 1; \
	done

# Writes the site into site/; open site/index.html.
docs: .venv/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.venv/installed: requirements.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -e .
	touch $@

# For the tests that compile for a TPU and a GPU; the demo needs none of them.
.venv/compilers: requirements-aot.txt requirements-aot-gpu.txt .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps \
	  -r requirements-aot.txt -r requirements-aot-gpu.txt
	touch $@

# For `hrm-jax export --format=onnx` and its tests.
.venv/onnx: requirements-onnx.txt .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps \
	  -r requirements-onnx.txt
	touch $@

# For the docs site.
.venv/docs: requirements-docs.txt .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt \
	  -r requirements-docs.txt
	touch $@

clean:
	rm -rf .venv
