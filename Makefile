# `make demo` and `make test` set everything up by themselves on a fresh machine (Python 3.11 or newer, git, make).
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test test-all lint types fuzz clean

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[cpu,train,dev]'
	touch $@

demo: $(STAMP)
	$(BIN)/python -m bnfold.demo

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

test: lint types
	$(BIN)/pytest --numprocesses auto

test-all: lint types
	$(BIN)/pytest --numprocesses auto -m ''

fuzz: $(STAMP)
	-$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[fuzz]"
	$(BIN)/python -m tests.fuzz
	$(BIN)/python -m tests.adapters.fuzz_onnx 300
	$(BIN)/python -m tests.adapters.fuzz_torch 300

clean:
	rm -rf $(VENV) build dist demo .mypy_cache .ruff_cache .pytest_cache .hypothesis
