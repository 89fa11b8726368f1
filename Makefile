# Each target does its own set-up: quick the second time, and without an activated environment.

.DEFAULT_GOAL := help
SHELL := /bin/sh
BIN := .venv/bin
UV := sh deploy/uv.sh
# Every process of the tests would compile all it imports anew, which takes longer than the rest of its start.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup services run test check format bench clean

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | expand -t 12

.venv/.synced: pyproject.toml uv.lock deploy/uv.sh
	@$(UV) sync --quiet --frozen --compile-bytecode
	@touch $@

setup: .venv/.synced  ## the environment in .venv, from the lock file

services:  ## the MySQL-compatible server that the tests start, installed where it is missing
	@sh deploy/services.sh

run: setup  ## the server on http://127.0.0.1:3000, with demo data
	@$(BIN)/python -m app migrate
	@$(BIN)/python -m app demo
	@exec $(BIN)/python -m app serve

test: setup services  ## every test, against real servers
	@$(BIN)/coverage erase
	@$(BIN)/coverage run -m pytest -n 2 --dist loadfile $(ARGS)
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report

check: setup  ## format, lint, types, import rules
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/pyright
	@$(BIN)/lint-imports --no-logo

format: setup  ## puts the code into the format that check asks for
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: setup  ## side by side with the peers: ratios, and a JSON record
	@sh deploy/services.sh bench
	@$(BIN)/python -m tests.bench $(ARGS)

clean:  ## removes what the targets above have made, but for data
	@rm -rf .venv .tools .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage .coverage.*
