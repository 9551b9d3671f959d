# make demo      from nothing to the comparison page
# make test      every commit: lint, types, unit tests (several minutes on two cores)
# make test-all  that and the slow tests
# make test-gpu  the tests on CUDA; each is skipped, with the reason, where there is none
# make docs      docs/commands, written from the code
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Two threads on a busy machine are many times slower than one, and one gives the same numbers every time.
TEST_ENV := OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 MPLBACKEND=agg

# Two processes; --dist loadfile keeps a file's tests in one, since they share its slow fixtures (a trained run).
PARALLEL := -n 2 --dist loadfile

.PHONY: env demo test test-all test-gpu lint types unit docs clean

# uv installs the 220 packages in a third of pip's time; where it cannot (an index that pip alone is told of), pip does.
env: $(VENV)/done

$(VENV)/done: requirements.txt setup.cfg pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed; make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --requirement requirements.txt || \
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
	$(TEST_ENV) $(BIN)/python -m pytest $(PARALLEL) -m "not slow and not gpu"

test-all: test
	$(TEST_ENV) $(BIN)/python -m pytest $(PARALLEL) -m "slow and not gpu"

# -rs prints why a test was skipped: without CUDA all are, and that must not look like success.
test-gpu: env
	$(TEST_ENV) $(BIN)/python -m pytest -rs -m gpu

# tests/test_docs.py fails where these pages differ from the code.
docs: env
	$(BIN)/python tools/make_docs.py

clean:
	rm -rf demo build dist .pytest_cache .mypy_cache .ruff_cache
