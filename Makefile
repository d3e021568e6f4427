# make demo: fine-tune on examples/, evaluate, predict. make test: the suite. Both set themselves up in .venv first.
PYTHON ?= python3
BIN := .venv/bin
PYTEST := TOKENIZERS_PARALLELISM=false $(BIN)/python -m pytest

.PHONY: demo test test-slow check clean

# torch first and pinned: a range would bring the newest build with gigabytes of CUDA libraries.
.venv/ready: pyproject.toml constraints.txt starter.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "kitune needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r starter.txt
	touch $@

demo: .venv/ready
	PATH="$(CURDIR)/$(BIN):$$PATH" sh examples/demo.sh

test: .venv/ready
	$(PYTEST) -m "not slow and not real"

test-slow: .venv/ready
	$(PYTEST) -m "slow or real"

check: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(PYTEST) -q tests/test_imports.py

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache
