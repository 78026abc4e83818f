# Everything a contributor runs.  Each target makes its own environment in .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Installed packages have their bytecode; without it, every process that a test starts would compile this one's anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test matrix soak cloud bench clean
.DEFAULT_GOAL := test

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

demo: $(VENV)/.installed  ## see it work: the stock application of conftest_examples/inventory with two workers
	$(BIN)/python -m pytest conftest_examples/inventory -n 2 -p no:randomly -p no:django -p no:asyncio

test: $(VENV)/.installed  ## lint, types, import contract and all tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy tests/typing
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -n 3

matrix: $(VENV)/.installed  ## the same tests on every storage rung, -n 0/2/8, root and ordinary user
	$(BIN)/python -m tests.matrix

soak: $(VENV)/.installed  ## rewind proved with 5,000 random leases, layers with 200 edits of 200 migrations, 300 kills; SOAK_LEASES, SOAK_EDITS, SOAK_SEED, FAULT_KILLS and FAULT_SEED choose others
	SOAK=1 $(BIN)/python -m pytest -n 2 -m soak
	SOAK_LEASES=$${SOAK_LEASES:-5000} $(BIN)/python -m pytest -s tests/contract/test_rewind_random.py tests/contract/test_rewind_mutations.py \
		tests/contract/test_lakebase_faults.py
	SOAK_MIGRATIONS=$${SOAK_MIGRATIONS:-200} SOAK_EDITS=$${SOAK_EDITS:-200} $(BIN)/python -m pytest -s tests/contract/test_layers_random.py
	FAULT_KILLS=$${FAULT_KILLS:-300} $(BIN)/python -m pytest -s tests/plugin/test_faults.py

cloud: $(VENV)/.installed  ## the provider tests on Databricks Lakebase: CLOUD_SOURCE=projects/NAME and DATABRICKS_* in the environment
	$(BIN)/python -m pytest tests/contract/test_provider.py -k cloud

bench: $(VENV)/.installed  ## the figures of the README, and those of other plugins (benchmarks/peers)
	$(BIN)/python -m benchmarks.peers
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) build dist
