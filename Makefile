# Two commands do everything on a new machine with Python 3.11 or newer: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
ROOMS := $(filter-out tests/engine/ tests/providers/,$(sort $(dir $(wildcard tests/*/test_*.py))))
POOLS := $(wildcard tests/test_pool*.py tests/test_streams*.py)
SERVICES := $(wildcard $(addprefix tests/test_,admission.py durable*.py examples.py keys.py shared_limits.py steps.py trickle.py \
	wakes.py webhook*.py))
SOCKETS := $(addprefix tests/,test_loopback.py test_webhooks_sockets.py test_spool.py test_shelf.py test_parts.py \
	test_structured.py security/test_security_wire.py dropin/test_dropin_openai.py progress/test_progress_pool.py \
	journal/test_journal_contract.py journal/test_journal_sqlite.py journal/test_journal_claims.py \
	$(addprefix cli/test_filerun_,output.py reading.py stream.py))
SLOW := tests/test_benchmarks.py::test_an_unknown_limit_is_found_and_kept_over_loopback
SOAK := tests/test_soak.py

# A commit waits for the disk, and tests make thousands: their folders lie in memory where there is plenty of room.
ROOMY := $(shell test "$$(df --output=avail /dev/shm 2>/dev/null | tail -n 1)" -gt 8000000 2>/dev/null && echo /dev/shm)
PYTEST := TMPDIR=$(or $(TMPDIR),$(ROOMY),/tmp) $(BIN)/python -m pytest

.DEFAULT_GOAL := help
.PHONY: help demo test lint types coverage parts rooms pools check services waits uvloop long crash soak simulate fuzz resources interop pythons lowest audit dropin bench guard docs wheel picture clean

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

.venv/.bench: pyproject.toml | .venv/pyvenv.cfg
	$(BIN)/pip install --quiet --editable '.[bench]'
	@touch $@

.venv/.docs: pyproject.toml | .venv/pyvenv.cfg
	$(BIN)/pip install --quiet --editable '.[docs]'
	@touch $@

# tiktoken's own place for its vocabularies cannot be reached from everywhere: see tests/vocabulary.py.
.vocabulary/.ready: tests/vocabulary.py | .venv/pyvenv.cfg
	$(BIN)/python tests/vocabulary.py
	@touch $@

demo: .venv/.runs ## summarise pages of Python documentation, and 10,000 docstrings in a file, on the emulator
	$(BIN)/python examples/summarise_python_docs.py
	$(BIN)/python examples/run_docstrings.py

test: lint ## everything that must hold: ruff, mypy --strict, all tests
	@$(MAKE) --no-print-directory .vocabulary/.ready
	@$(MAKE) --no-print-directory --jobs=3 check rooms pools types services parts waits

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
	$(PYTEST) $(ROOMS)

pools: .venv/.tests .vocabulary/.ready ## the tests of pools and streams
	$(PYTEST) $(POOLS)

check: .venv/.tests .vocabulary/.ready ## the tests of the rest
	$(PYTEST) $(filter-out $(POOLS) $(SERVICES) $(SOAK),$(wildcard tests/test_*.py)) --deselect $(SLOW)

services: .venv/.tests .vocabulary/.ready ## the tests of what long-lived services use
	$(PYTEST) $(SERVICES)

waits: .venv/.tests .vocabulary/.ready ## the tests that wait most of their time
	$(BIN)/python -m pytest -q $(SLOW) $(SOAK)

uvloop: .venv/.tests .vocabulary/.ready ## tests that take real time, sockets and files, with uvloop as the event loop
	CARPOOL_LOOP=uvloop $(PYTEST) -q $(SOCKETS) -k asyncio

long: .venv/.tests ## what make test does with fewer calls and steps: engine and journal against models, all faults at once
	CARPOOL_MACHINES=3000 $(PYTEST) --timeout 3600 tests/engine tests/journal -k 'Machine and not another'
	CARPOOL_CALLS=20000 $(PYTEST) --timeout 3600 tests/test_all_faults.py

crash: .venv/.tests ## kill a process at every write, file operation and exchange, and start it again
	CARPOOL_CRASH=all $(BIN)/python -m pytest tests/crash

soak: .venv/.tests ## ten minutes of requests, restarts and faults before two services on one folder
	$(BIN)/python -m benchmarks.soak

fuzz: .venv/.tests ## tens of thousands of inputs for the parsers, the wire, whole pools and the emulator
	CARPOOL_FUZZ=$(or $(EXAMPLES),5000) PYTHONPATH=tests/fuzz $(PYTEST) -p fuzz_kit -q --timeout 3600 tests/fuzz

simulate: .venv/.tests ## thousands of worlds on virtual time, each drawn from a seed, and bugs that they must find
	PYTHONPATH=tests $(BIN)/python -m simulate --jobs 2 --small 0:2000
	PYTHONPATH=tests $(BIN)/python -m simulate --jobs 2 0:600
	PYTHONPATH=tests $(BIN)/python -m simulate --jobs 2 --small --twice 2000:2100
	PYTHONPATH=tests $(BIN)/python -m simulate --jobs 2 --planted

resources: .venv/.tests ## a million calls, 1,000 open batches, bodies of 10 MB, files of 190 MB and 2 GB: memory, disk, descriptors
	CARPOOL_RESOURCES=all $(BIN)/python -m pytest -s tests/resources

interop: .venv/.tests ## go through everything with the servers of others, each of a pinned version: OGX and aimock
	PYTHONPATH=tests $(BIN)/python -m interop

pythons: .venv/.tests .vocabulary/.ready ## run the tests with each Python from 3.11 on that is here, or that PYTHONS names
	PYTHONPATH=tests $(BIN)/python -m interop.pythons

lowest: .venv/.tests .vocabulary/.ready ## run tests with the lowest versions that pyproject.toml allows
	PYTHONPATH=tests $(BIN)/python -m interop.lowest

audit: .venv/.tests ## the licences of what is needed at run time, and what of it is known to be vulnerable
	PYTHONPATH=tests $(BIN)/python -m interop.audit

dropin: .venv/pyvenv.cfg ## run each client in an environment of its own, and write docs/reference/clients.md
	$(BIN)/python tests/dropin/environments.py

bench: .venv/.bench .vocabulary/.ready ## all benchmarks; tables and pictures go to benchmarks/results (two hours)
	$(BIN)/python -m benchmarks run all

guard: .venv/.tests ## fail where a call costs more, beside the floor of the same run, than benchmarks/guard.json says
	$(BIN)/python -m benchmarks.guard

docs: .venv/.docs ## build the documentation as a site, strictly: build/site
	$(BIN)/mkdocs build --strict --quiet

wheel: ## build the wheel, and test it as it is installed: its types with pyright, which brings Node, and code without src/ in reach
	rm -rf build/wheel
	mkdir -p build
	.github/wheel.sh $(PYTHON) build/wheel

picture: .venv/.tests ## draw the live view of a run on virtual time: docs/images/progress.svg
	$(BIN)/python tests/progress/draw_progress.py

clean: ## remove what was made here
	rm -rf .venv .vocabulary .environments build dist .coverage .hypothesis .mypy_cache .ruff_cache .pytest_cache
