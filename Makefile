# `make run` and `make test` are all a newcomer needs; both set up what they need first.
PYTHON ?= python3
PORT ?= 3000
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready

.PHONY: setup run test lint test-slow clean help

help: ## What can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: $(BIN)/tenantry ## Make the environment .venv (quick when it is up to date)

$(READY): requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' || \
		{ echo "Tenantry needs Python 3.11 or 3.12; $(PYTHON) is $$($(PYTHON) --version). Name another: make PYTHON=python3.11 …"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing what requirements.lock names into $(VENV) (a few minutes the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --requirement requirements.lock
	@# A CUDA build of torch needs libraries that a CPU build does not, so they are not in the lock.
	@$(BIN)/python -c 'import torch' 2>/dev/null || \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock "$$(grep '^torch==' requirements.lock)"
	@touch $(READY)

$(BIN)/tenantry: $(READY) pyproject.toml
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

run: setup ## Run everything on this machine. ONCE=1 ends by itself, TENANTS=n (of energy), DATA=your.csv, PORT=n
	@$(BIN)/python -m demo $(if $(TENANTS),--tenants $(TENANTS)) --port $(PORT) $(if $(DATA),--data "$(DATA)") $(if $(ONCE),--once)

lint: setup ## Lint, types, template
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/cfn-lint infrastructure/stack.yaml

test: lint ## Lint, types and all tests but the slow ones
	$(BIN)/python -m pytest -m "not slow" --numprocesses 2 --dist loadfile --no-loadscope-reorder

test-slow: setup ## The slow tests
	$(BIN)/python -m pytest -m slow

clean: ## Remove what running and testing made; the environment stays
	rm -rf .tenantry .pytest_cache .mypy_cache .ruff_cache .hypothesis
