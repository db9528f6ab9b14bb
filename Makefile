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

# make claims   tests every claim of both papers and of this project; goes on where it stopped   (runs/claims; CLAIMS="--seeds 1")
.PHONY: claims world-b-claims
CLAIMS ?= --workers 2
claims: $(VENV)/.world runs/world-claims/manifest.json
	$(PY) -m sedtalker_jax.evaluation.claims $(CLAIMS)

runs/world-claims/manifest.json: configs/world_rules.toml | $(VENV)/.world
	$(PY) -m sedtalker_jax.data.synthetic --rules $< --subset claims --out $(@D) --workers $(WORKERS) --overwrite

# make world-b-claims   the other world for `make claims`, which goes without it where it is not there   (needs Flite 2)
world-b-claims: $(VENV)/.world
	$(PY) -m sedtalker_jax.data.synthetic --rules configs/world_b_rules.toml --subset claims --out runs/world-b-claims --workers $(WORKERS)

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

# make world-b    the other world, with another synthesiser, rules and heads: what carries over? (runs/world-b; needs Flite 2)
.PHONY: world-b
world-b: $(VENV)/.world
	$(PY) -m sedtalker_jax.data.synthetic --rules configs/world_b_rules.toml --subset demo --out runs/world-b --workers $(WORKERS)

# make aot-tpu / aot-gpu   compile the kernels for chips that are not here (libtpu and CUDA have licence terms of their own)
.PHONY: aot-tpu aot-gpu test-newest
aot-tpu:
	test -x .aot/tpu/bin/python || { $(PYTHON) -m venv .aot/tpu && .aot/tpu/bin/pip install --quiet "jax[tpu]==0.10.2" absl-py==2.5.1; }
	mkdir -p build && .aot/tpu/bin/python -m kernels.aot --target v5e,v5p,v6e --out build/aot_tpu.json

aot-gpu:
	test -x .aot/gpu/bin/python || { $(PYTHON) -m venv .aot/gpu && .aot/gpu/bin/pip install --quiet "jax[cuda13]==0.10.2" absl-py==2.5.1; }
	mkdir -p build && .aot/gpu/bin/python -m kernels.aot --target h200 --implementation pallas_gpu --out build/aot_gpu.json

# make test-interpreted   the contract of the Pallas kernels, all of it, under interpreters   (an hour or more)
.PHONY: test-interpreted
test-interpreted: $(VENV)/.dev
	$(PY) -m pytest -n 2 -m interpreted tests/kernels

# make test-newest   the suite on Python 3.12+ with the newest jax and flax pair (NEWEST=/path/to/python3.12)
NEWEST ?= python3.12
test-newest:
	test -x .venv-newest/bin/python || $(NEWEST) -m venv .venv-newest
	.venv-newest/bin/pip install --quiet -r requirements-dev.txt
	.venv-newest/bin/python -m pytest -n 2 $(TESTS)

clean:
	rm -rf runs .pytest_cache .ruff_cache
