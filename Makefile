# The whole workflow. Every target sets up first; a second call does no set-up work again.
#   make run     set up, do the main job end to end on this machine, say what it did
#   make up      the same processes, left running until Ctrl-C
#   make test    set up, run every test        make bench   compare with the peers
#   make lint    ruff, mypy, architecture      make asan    build and test under AddressSanitizer
#   make tsan    the same under ThreadSanitizer, serve and hostile alone
#   make fuzz    the codec under libFuzzer, FUZZ_SECONDS a target (3600)
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup run up test bench bench-short lint asan tsan fuzz man lock clean

VENV := .venv
PYTHON := $(VENV)/bin/python
STAMP := .make
COMPILED := $(wildcard src/omavol/*.pyx src/omavol/*.pxd src/omavol/*.h src/omavol/wire/*.pxi src/omavol/channel/*.pxi src/omavol/store/*.pxi src/omavol/fastio/*.pxi src/omavol/fastio/digest*) src/omavol/_dm.py

help:
	@sed -n '2,7s/^# *//p' Makefile

$(STAMP)/packages: deploy/debian/packages.build deploy/debian/packages.run deploy/debian/packages.test scripts/install-packages
	@mkdir -p $(STAMP)
	@scripts/install-packages deploy/debian/packages.build deploy/debian/packages.run deploy/debian/packages.test
	@touch $@

$(STAMP)/venv: requirements.lock requirements-installer.lock $(STAMP)/packages
	@scripts/make-venv $(VENV)
	@touch $@

$(STAMP)/build: setup.py pyproject.toml $(COMPILED) $(STAMP)/venv
	@scripts/build $(VENV)
	@touch $@

setup: $(STAMP)/build

run: setup
	@$(PYTHON) -m demo

up: setup
	@$(PYTHON) -m demo --stay

test: setup
	@$(PYTHON) -m pytest

bench: setup
	@$(PYTHON) -m pytest benchmarks --benchmark-columns=median,iqr,rounds

bench-short: setup
	@OMA_BENCH=short $(PYTHON) -m pytest benchmarks --benchmark-columns=median,iqr,rounds

lint: setup
	@$(VENV)/bin/ruff check --no-cache .
	@$(VENV)/bin/ruff format --no-cache --check .
	@PATH=$(VENV)/bin:$$PATH cython-lint --max-line-length 120 src/omavol
	@$(VENV)/bin/mypy
	@$(PYTHON) -m pytest -q tests/test_architecture.py

asan: setup
	@scripts/sanitized address $(VENV)

tsan: setup
	@scripts/sanitized thread $(VENV)

fuzz: setup
	@scripts/install-packages deploy/debian/packages.fuzz
	@scripts/fuzz run $(PYTHON)

man: setup
	@scripts/man-pages $(VENV)

lock: $(STAMP)/packages
	@scripts/lock

clean:
	@rm -rf $(VENV) $(STAMP) build dist *.egg-info src/*.egg-info
	@find src -name '*.so' -delete; rm -f src/omavol/_*.c
