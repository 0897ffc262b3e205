# Everything starts from Python 3.11 and make; .venv is made on the way.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

export TF_CPP_MIN_LOG_LEVEL ?= 3
export KERAS_BACKEND := tensorflow
export ORT_DISABLE_TELEMETRY := 1

.PHONY: help setup quickstart app chromium test lint format clean

help:
	@echo "make quickstart  set up, then run the main job on real photographs (quickstart/)"
	@echo "make app         set up, then serve the web app on this machine (ROOT=. RUN=run PORT=8501)"
	@echo "make test        set up, then run the tests"
	@echo "make lint        ruff, mypy, import-linter"
	@echo "make format      rewrite the code in the project's style"
	@echo "make clean       remove .venv, caches and quickstart/"

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
	  { echo "Python 3.11 is needed: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --constraint constraints.txt --editable '.[toolkit,photographs,dev]'
	touch $(READY)

quickstart: $(READY)
	$(BIN)/python main.py quickstart --out quickstart

# What the web app shows lies below ROOT; RUN is the run it asks, the shipped one if empty.
ROOT ?= .
PORT ?= 8501
app: $(READY)
	$(BIN)/python main.py app --root '$(ROOT)' --port '$(PORT)' $(if $(RUN),--run '$(RUN)')

# The browser tests need it and say so where it is not there.
chromium:
	@command -v chromium >/dev/null || [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null || \
	  { timeout 60 apt-get update; \
	    DEBIAN_FRONTEND=noninteractive timeout 300 apt-get install --yes chromium; } \
	  >/dev/null 2>&1 || true

test: $(READY) chromium
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PYTHONPATH=. $(BIN)/lint-imports

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) quickstart .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache screenshots
