# make demo   everything from nothing: environment, world, training, evaluation, an animated face   (runs/demo)
# make test   the test suite
# Where python3.12 or newer runs it is preferred; PYTHON=... overrides.
PYTHON ?= $(shell for p in python3.12 python3.13 python3.11 python3; do \
	if $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then echo $$p; break; fi; done)
VENV ?= .venv
PY := $(VENV)/bin/python
WORKERS ?= $(shell nproc 2>/dev/null || echo 2)

.PHONY: demo test lint world-report clean help
.DEFAULT_GOAL := help

help:
	@sed -n '/^# /s/^# //p' Makefile

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; install it or name it: make PYTHON=/path/to/python3.12"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --upgrade pip

$(VENV)/.world: requirements.txt requirements-world.txt | $(VENV)/bin/python
	$(PY) -m pip install --quiet -r requirements-world.txt
	@touch $@

$(VENV)/.dev: requirements.txt requirements-world.txt requirements-dev.txt | $(VENV)/bin/python
	$(PY) -m pip install --quiet -r requirements-dev.txt
	@touch $@ $(VENV)/.world

demo: $(VENV)/.world
	$(PY) -m sedtalker_jax.data.synthetic --rules configs/world_rules.toml --subset demo --out runs/world-demo --workers $(WORKERS) --overwrite
	$(PY) train.py --config=configs/demo.py --workdir=runs/demo
	$(PY) evaluate.py --config=configs/demo.py --workdir=runs/demo
	$(PY) -m sedtalker_jax diarize runs/demo/speech.wav --checkpoint runs/demo --out runs/demo/speech.rttm
	$(PY) -m sedtalker_jax animate runs/demo/speech.wav --checkpoint runs/demo --out runs/demo/speech.mp4
	@echo "done: look at runs/demo/speech.mp4 and runs/demo/report.html"

# TESTS=tests/speech limits the run to a folder or file.
TESTS ?= tests
test: $(VENV)/.dev
	$(PY) -m pytest -n 2 $(TESTS)

lint: $(VENV)/.dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

# make world-report   calibration, histograms and contact sheets of the built-in world   (runs/world-report)
world-report: $(VENV)/.world
	$(PY) -m sedtalker_jax.data.world.report --rules configs/world_rules.toml --out runs/world-report

clean:
	rm -rf runs .pytest_cache .ruff_cache
