# `make run` and `make test` are all a newcomer needs; both set up what they need first.
PYTHON ?= python3
PORT ?= 3000
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready

# make itself takes any variable without a word: a misspelt PORTS=3001 would be lost.
TAKEN := PYTHON VENV TENANTS DATA ONCE PORT UPGRADE IMAGES TAG REPOSITORIES BASE DEBOOTSTRAP
GIVEN := $(foreach name,$(.VARIABLES),$(if $(filter command,$(origin $(name))),$(name)))
ifneq (,$(filter-out $(TAKEN),$(GIVEN)))
$(error There is no variable $(filter-out $(TAKEN),$(GIVEN)); `make help` lists those that there are)
endif

.PHONY: setup lock run test lint test-slow images clean help

help: ## What can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: $(READY) $(BIN)/tenantry ## Make the environment .venv (quick when it is up to date)

# The program itself tells of a Python that is too old; one older than 3.8 could not even read it.
SET_UP = $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 8))' 2>/dev/null || \
	{ echo "$(PYTHON) is missing or too old: Tenantry needs Python 3.11, 3.12 or 3.13."; \
	echo "Install one (apt install python3 python3-venv), or name it: make PYTHON=python3.13 …"; \
	exit 1; }; $(PYTHON) infrastructure/set_up.py

$(READY): requirements.lock requirements-cuda.lock
	@$(SET_UP) packages $(VENV)

$(BIN)/tenantry: $(READY) pyproject.toml
	@$(SET_UP) project $(VENV)

lock: setup ## Write the locks anew. UPGRADE=1 takes the newest of all, UPGRADE="torch …" of these
	@$(BIN)/python -m infrastructure.lock $(if $(filter 1,$(UPGRADE)),--upgrade,$(UPGRADE))

run: setup ## Run everything on this machine. ONCE=1 ends by itself, TENANTS=n (of energy), DATA=your.csv, PORT=n
	@$(BIN)/python -m demo $(if $(TENANTS),--tenants $(TENANTS)) --port $(PORT) $(if $(DATA),--data "$(DATA)") $(if $(ONCE),--once)

lint: setup ## Lint, types, template, workloads
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/cfn-lint infrastructure/stack.yaml
	$(BIN)/python -m tenantry.workloads check

test: lint ## Lint, types and all tests but the slow ones
	$(BIN)/python -m pytest -m "not slow" --numprocesses 3 --dist loadfile --no-loadscope-reorder

test-slow: setup ## The slow tests
	$(BIN)/python -m pytest -m slow

IMAGES_AS = $(if $(TAG),--tag $(TAG)) $(if $(REPOSITORIES),--repositories $(REPOSITORIES)) \
	$(if $(BASE),--base $(BASE)) $(if $(filter 1,$(DEBOOTSTRAP)),--debootstrap)

images: setup ## Build images. IMAGES="forecast …", TAG=t, REPOSITORIES=p, BASE=i, DEBOOTSTRAP=1
	@$(BIN)/python -m infrastructure.images $(IMAGES) $(IMAGES_AS)

clean: ## Remove what running and testing made; the environment stays
	rm -rf .tenantry .pytest_cache .mypy_cache .ruff_cache .hypothesis
