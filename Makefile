# The door for developers. Everything here is a script or one line.
.DEFAULT_GOAL := help
.PHONY: help setup lint format types unit test run bench lock

BIN := .venv/bin
SETUP := . scripts/lib/env.sh; llm=$$(llm_requirements); with_install_lock install services embedded embedded-mongo embeddings openvino onnx dev "$$llm"

help: ## this list
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10

setup: ## make .venv with everything that runs, checks and tests
	@bash -ec 'ROOT=$$PWD PROGRAM=setup; $(SETUP)'

lint: setup ## ruff, shellcheck, import rules, manifests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/shellcheck -x relais scripts/*.sh scripts/lib/*.sh .ci/run
	$(BIN)/lint-imports
	./scripts/check_manifests.sh

format: setup ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: setup ## mypy, strict
	$(BIN)/mypy

test: ## checks and all tests; ARGS='tests/unit -k codec' for some tests only
	./scripts/test.sh $(ARGS)

unit: ## tests without a server, torch or vLLM; installs little, takes a minute
	./scripts/test.sh tests/unit -n auto $(ARGS)

run: ## start all of it (Ctrl-C stops it)
	./scripts/bootstrap.sh $(ARGS)

bench: setup ## measure against an alternative in one run; ARGS='relay --clients 50'
	$(BIN)/python -m benchmarks $(or $(ARGS),relay)

lock: setup ## regenerate requirements/*.txt; ARGS=--upgrade moves the pins
	./scripts/lock.sh $(ARGS)
