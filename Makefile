# Two commands do everything on a new machine with Python 3.11 or newer: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help demo test lint types check coverage bench clean

help: ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

.venv/pyvenv.cfg:
	$(PYTHON) -m venv .venv

.venv/.runs: pyproject.toml | .venv/pyvenv.cfg
	$(BIN)/pip install --quiet --editable '.[cli,emulator]'
	@touch $@

.venv/.tests: pyproject.toml | .venv/pyvenv.cfg
	$(BIN)/pip install --quiet --editable '.[test]'
	@touch $@

demo: .venv/.runs ## summarise the topics of Python's own documentation, on the embedded emulator
	$(BIN)/python examples/summarise_python_docs.py

test: lint types coverage check ## everything that must hold: ruff, mypy --strict, all tests

lint: .venv/.tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/.tests
	$(BIN)/mypy

coverage: .venv/.tests ## the tests of engine/ and providers/, which must cover them whole
	$(BIN)/coverage run -m pytest -q tests/engine tests/providers
	$(BIN)/coverage report --include='src/carpool/engine/*,src/carpool/providers/*' --fail-under=100 --show-missing

check: .venv/.tests
	$(BIN)/python -m pytest --ignore=tests/engine --ignore=tests/providers

bench: .venv/.tests ## CPU and memory of 50,000 and 200,000 calls beside the straight line
	$(BIN)/python -m benchmarks.throughput

clean: ## remove what was made here
	rm -rf .venv build dist .coverage .hypothesis .mypy_cache .ruff_cache .pytest_cache
