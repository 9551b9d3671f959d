# `make demo`: from nothing to the page. `make test`: what every commit passes. `make test-all`: that and the slow proofs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Two threads on a busy machine are many times slower than one, and one gives the same numbers every time.
TEST_ENV := OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 MPLBACKEND=agg

.PHONY: env demo test test-all lint types unit clean

env: $(VENV)/done

$(VENV)/done: requirements.txt setup.cfg pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed; make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --requirement requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

demo: env
	PATH="$(abspath $(BIN)):$$PATH" sh tools/demo.sh

test: lint types unit

lint: env
	$(BIN)/ruff check cxr_ft tests tools
	$(BIN)/ruff format --check cxr_ft tests tools

types: env
	$(BIN)/mypy

unit: env
	$(TEST_ENV) $(BIN)/python -m pytest -m "not slow"

test-all: lint types
	$(TEST_ENV) $(BIN)/python -m pytest

clean:
	rm -rf demo build dist .pytest_cache .mypy_cache .ruff_cache
