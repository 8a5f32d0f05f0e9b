# make demo   sets everything up and runs the main job: an infrastructure in a box
# make test   sets everything up and runs all checks and tests (as root also those with real programs)
# make lint   ruff, mypy --strict, import contracts
# make bench  measures, side by side with the peers (as root; installs what is missing)

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# one more than there are processors: while a test waits for a process of its own, another runs
BESIDE := $(shell echo $$(($$(nproc) + 1)))

# Tests start a few hundred Pythons, and pytest rewrites each test module before it runs: compiled once, not every time.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test unit lint format bench clean setup

demo: $(VENV)/.run
	@tools/demo

test: $(VENV)/.dev
	@tools/system-packages
	@tools/guest-system $(abspath $(VENV)/guest)
	@[ "$$(id -u)" != 0 ] || $(BIN)/python -m benchmarks.setup_peers ovs-vswitchd
	@$(MAKE) --no-print-directory lint
	@echo 'tests in virtual time and without privileges'
	@$(BIN)/python -m pytest --numprocesses $(BESIDE) -m 'not real'
	@echo 'tests with real namespaces, devices and programs, two files at a time'
	@$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder -m 'real and not alone'
	@echo 'those that nothing else may run beside'
	@$(BIN)/python -m pytest -m 'real and alone'

unit: $(VENV)/.dev
	@$(BIN)/python -m pytest --numprocesses $(BESIDE) tests/unit tests/property tests/scenario -m 'not real'

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy topologies/cluster.py
	$(BIN)/lint-imports

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.dev
	@tools/system-packages
	@$(BIN)/python -m benchmarks.run

setup: $(VENV)/.dev

$(VENV)/.run: pyproject.toml tools/make-venv
	@tools/make-venv $(PYTHON) $(VENV) .
	@touch $@

$(VENV)/.dev: pyproject.toml tools/make-venv
	@tools/make-venv $(PYTHON) $(VENV) '.[dev]'
	@touch $(VENV)/.run $@

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build *.egg-info out vnet-failures
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
