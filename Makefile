# make help lists the targets; every target sets up what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.current

.PHONY: help setup train test lint slow bench clean

help: ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/ \t/' | expand -t 10

# The stamp makes a second `make setup` a matter of milliseconds; editing either file renews the environment.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
		{ echo "Lightbed needs Python 3.11 to 3.13; choose one with: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing Lightbed into $(VENV) (a few minutes the first time) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,timm,sweep,ray,rcnn,serve,export]'
	@touch $@

setup: $(STAMP) ## create .venv from pyproject.toml and constraints.txt

train: $(STAMP) ## train the default experiment on the embedded digits; more: make train ARGS="model=resnet18"
	@$(BIN)/lightbed train $(ARGS)

test: $(STAMP) ## the tests that take minutes, in two processes
	@$(BIN)/python -m pytest --numprocesses=2 --dist=loadfile $(ARGS)

lint: $(STAMP) ## ruff and mypy
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

slow: $(STAMP) ## the tests that take longer
	@$(BIN)/python -m pytest -m slow $(ARGS)

bench: $(STAMP) ## the measurements, as one table
	@$(BIN)/python -m benchmarks $(ARGS)

clean: ## remove the environment and caches, never outputs
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
