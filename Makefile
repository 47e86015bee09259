# Two commands do everything on a new machine with Python 3.11 or newer: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
ROOMS := $(filter-out tests/engine/ tests/providers/,$(sort $(dir $(wildcard tests/*/test_*.py))))
POOLS := $(wildcard tests/test_pool*.py tests/test_streams*.py)
SERVICES := $(wildcard $(addprefix tests/test_,admission.py durable*.py examples.py keys.py shared_limits.py steps.py trickle.py \
	wakes.py webhook*.py))
SLOW := tests/test_benchmarks.py::test_an_unknown_limit_is_found_and_kept_over_loopback
SOAK := tests/test_soak.py

.DEFAULT_GOAL := help
.PHONY: help demo test lint types coverage parts rooms pools check services waits crash soak dropin bench picture clean

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

# tiktoken's own place for its vocabularies cannot be reached from everywhere: see tests/vocabulary.py.
.vocabulary/.ready: tests/vocabulary.py | .venv/pyvenv.cfg
	$(BIN)/python tests/vocabulary.py
	@touch $@

demo: .venv/.runs ## summarise pages of Python documentation, and 10,000 docstrings in a file, on the emulator
	$(BIN)/python examples/summarise_python_docs.py
	$(BIN)/python examples/run_docstrings.py

test: lint types ## everything that must hold: ruff, mypy --strict, all tests
	@$(MAKE) --no-print-directory .vocabulary/.ready
	@$(MAKE) --no-print-directory --jobs=3 check rooms pools services parts waits

lint: .venv/.tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/.tests
	$(BIN)/mypy

coverage: .venv/.tests .vocabulary/.ready ## the tests of engine/ and providers/ but the machines, which must cover them
	$(BIN)/coverage run -m pytest -q tests/engine tests/providers -k 'not Machine'
	$(BIN)/coverage report --include='src/carpool/engine/*,src/carpool/providers/*' --fail-under=100 --show-missing

parts: coverage ## the machines of engine/
	$(BIN)/python -m pytest -q tests/engine -k Machine

rooms: .venv/.tests .vocabulary/.ready ## the tests of the other rooms
	$(BIN)/python -m pytest $(ROOMS)

pools: .venv/.tests .vocabulary/.ready ## the tests of pools and streams
	$(BIN)/python -m pytest $(POOLS)

check: .venv/.tests .vocabulary/.ready ## the tests of the rest
	$(BIN)/python -m pytest $(filter-out $(POOLS) $(SERVICES) $(SOAK),$(wildcard tests/test_*.py)) --deselect $(SLOW)

services: .venv/.tests .vocabulary/.ready ## the tests of what long-lived services use
	$(BIN)/python -m pytest $(SERVICES)

waits: .venv/.tests .vocabulary/.ready ## the tests that wait most of their time
	$(BIN)/python -m pytest -q $(SLOW) $(SOAK)

crash: .venv/.tests ## kill a process at every write, file operation and exchange, and start it again
	CARPOOL_CRASH=all $(BIN)/python -m pytest tests/crash

soak: .venv/.tests ## ten minutes of requests, restarts and faults before two services on one folder
	$(BIN)/python -m benchmarks.soak

dropin: .venv/pyvenv.cfg ## run each client in an environment of its own, and write docs/clients.md
	$(BIN)/python tests/dropin/environments.py

bench: .venv/.tests .vocabulary/.ready ## CPU, memory and queue limits, beside the straight line and an oracle
	$(BIN)/python -m benchmarks.throughput
	$(BIN)/python -m benchmarks.counting
	$(BIN)/python -m benchmarks.scheduling
	$(BIN)/python -m benchmarks.limited
	$(BIN)/python -m benchmarks.trickle
	$(BIN)/python -m benchmarks.recovery
	$(BIN)/python -m benchmarks.transport
	$(BIN)/python -m benchmarks.steps
	$(BIN)/python -m benchmarks.filerun

picture: .venv/.tests ## draw the live view of a run on virtual time: docs/images/progress.svg
	$(BIN)/python tests/progress/draw_progress.py

clean: ## remove what was made here
	rm -rf .venv .vocabulary .environments build dist .coverage .hypothesis .mypy_cache .ruff_cache .pytest_cache
