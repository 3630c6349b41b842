# Each target makes the virtual environment that it needs. Python 3.11 and make
# are all that a machine has to bring.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
DEMO_WORKDIR ?= runs/demo
# More flags for the demo's training; other settings want another workdir:
# make demo DEMO_WORKDIR=runs/demo1 DEMO_FLAGS=--config.seed=1
DEMO_FLAGS ?=

.PHONY: demo test lint clean

demo: .venv/installed
	$(BIN)/python -m experiments.train --workdir=$(DEMO_WORKDIR) \
	  --config=experiments/configs/arc1.py:demo $(DEMO_FLAGS)
	$(BIN)/python -m experiments.evaluate --workdir=$(DEMO_WORKDIR)

test: .venv/installed
	$(BIN)/python -m pytest

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

.venv/installed: requirements.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

clean:
	rm -rf .venv
