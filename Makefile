# `make help` lists the targets. Everything runs inside .venv; nothing is installed globally
# except Java, and that only when none is found and apt-get may install it.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOCKS := infra/setup/locks
JOBS ?= 2
# whole files, so that each process starts a file's servers once; in the order of tests/conftest.py
PYTEST := $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder
STAMP := $(VENV)/.installed

.PHONY: help setup edge-runtime demo test test-fast lint lock audit sbom format clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

setup: $(STAMP) java edge-runtime  ## create .venv, install the project, check Java

$(STAMP): pyproject.toml setup.py $(LOCKS)/dev.txt $(wildcard recsys/native/src/*)
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	infra/setup/install.sh $(BIN)/python $(LOCKS)/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	-@$(BIN)/python -m compileall -q recsys streaming serving training infra
	@touch $@

.PHONY: java
java:
	@infra/setup/ensure_java.sh

edge-runtime: $(STAMP)  ## onnxruntime-web from npm, with which the console reranks on the device
	@$(BIN)/python infra/setup/edge_runtime.py || true

demo: setup  ## the whole loop on MovieLens-100K, then serve until Ctrl-C
	@$(BIN)/recsys demo

test: setup lint  ## every check and every test
	infra/setup/ensure_tools.sh
	$(PYTEST)

test-fast: setup  ## the tests that take under two minutes together
	$(PYTEST) -m "not slow"

lint: setup  ## ruff, mypy --strict, import contracts, bandit
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/bandit -q -ll -r recsys streaming serving training infra

lock: setup  ## write the lock files; OPTIONS=--upgrade takes the newest versions
	infra/setup/lock.sh $(OPTIONS)

sbom: setup  ## build/sbom/*.json: CycloneDX bills of materials of what each image installs
	infra/setup/sbom.sh build/sbom

audit:  ## pinned versions against the known vulnerabilities (needs pypi.org or osv.dev)
	$(PYTHON) -m venv .venv-audit
	.venv-audit/bin/python -m pip install --quiet pip-audit
	.venv-audit/bin/pip-audit -r $(LOCKS)/dev.txt --require-hashes --disable-pip

format: setup  ## rewrite the files as ruff would
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove what setup and runs have created
	rm -rf $(VENV) .venv-audit var build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
