# Every target works on a machine that has Python 3.11 or newer, make and a package index.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
ONCE ?=
PEERS ?=
OUT ?=
JOBS ?= 2

.DEFAULT_GOAL := help
.PHONY: help install demo test soak lint format bench flame prices docs clean

help: ## this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

install: $(STAMP) ## install into .venv

$(STAMP): pyproject.toml uv.lock
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@UV_PROJECT_ENVIRONMENT=$(VENV) $(BIN)/uv sync --quiet --frozen --inexact --group dev
	@touch $@

demo: $(STAMP) ## gateway, console and simulated providers with real SDK traffic; ONCE=1 exits after the report
	@$(BIN)/costbearer demo $(if $(ONCE),--once)

test: $(STAMP) ## the whole test suite
	@$(BIN)/python -m pytest -n $(JOBS) -m "not soak"

soak: $(STAMP) ## the long kill and fault loops
	@$(BIN)/python -m pytest -m soak -s

lint: $(STAMP) ## ruff and mypy
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(STAMP) ## rewrite in the house format
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: $(STAMP) ## ratios in one run, kept in bench/RESULTS.md; PEERS=1 measures other gateways too
	@$(BIN)/python -m bench.run $(if $(PEERS),--peers)

flame: $(STAMP) ## where a worker's time goes under load: a flame graph; OUT=FILE.svg names it
	@$(BIN)/python -m tools.flame $(or $(OUT),flame.svg)

prices: $(STAMP) ## compile the price archive again from its sources
	@$(BIN)/python tools/compile_prices.py

docs: $(STAMP) ## regenerate the parts of the docs that come from tables
	@$(BIN)/python tools/build_docs.py

clean: ## remove what was installed
	rm -rf $(VENV)
