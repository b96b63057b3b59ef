# make demo: the whole story on a CPU, ending with the path of an HTML page and of a scroll.
# make test: installs what is missing and runs every check and test.

PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3 python; do \
	command -v $$p >/dev/null && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
OUT ?= runs/demo
WORKERS ?= 3

# Processes with one thread each use cores better than fewer with more; on two cores three do, since many a
# test waits for processes that it started.
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: demo test lint format types imports install help clean-demo
.DEFAULT_GOAL := help

help:
	@echo "make demo     the whole story on a CPU (installs what is missing first), into OUT=$(OUT)"
	@echo "make test     every check and every test (installs what is missing first)"
	@echo "make lint     ruff, types and import rules only"
	@echo "make format   let ruff put the sources into shape"

demo: $(VENV)/.installed
	OMP_NUM_THREADS=$$($(BIN)/python -c 'import os; print(min(4, len(os.sched_getaffinity(0))))') \
		$(BIN)/drspo demo --out $(OUT)

test: lint
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup -q

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy drspo miniature generate eval pipeline dataset_builder train

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

install: $(VENV)/.installed-dev

# The stamps are newer than what they were made from, or the step is done again.
$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; name it with make PYTHON=..."; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --group dev
	@touch $@

clean-demo:
	rm -rf $(OUT)
