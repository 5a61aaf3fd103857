# make study [SCALE=nano]   the whole study: data, models, evaluation, figures
# make test                 what CI runs; test-flash: flash-attn's real calls, without a GPU
# make docs                 the site, in _docs/
# make prepare              after editing a notebook: export, format, clean, README
SHELL := /bin/bash
SCALE ?= nano
PYTHON ?= python3
BIN := .venv/bin
export OMP_WAIT_POLICY := passive
export HF_HUB_OFFLINE := $(if $(filter nano micro,$(SCALE)),1,$(HF_HUB_OFFLINE))

.PHONY: study test test-flash docs prepare install
study: .venv/ready
	$(BIN)/python -m phi1_nb.study --scale $(SCALE)

test: .venv/ready
	$(BIN)/ruff check nbs tests benchmarks phi1_nb && $(BIN)/ruff format --check nbs tests benchmarks
	$(BIN)/pytest -q tests/test_export.py
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/nbdev_test --n_workers 2 --do_print
	$(BIN)/pytest -q -m "not slow and not gpu" --durations 10 tests
	$(MAKE) docs

test-flash: .venv/ready
	test -e .flash/ready || FLASH_ATTENTION_SKIP_CUDA_BUILD=TRUE FLASH_ATTENTION_FORCE_BUILD=TRUE $(BIN)/pip install -q --no-cache-dir --no-build-isolation --no-deps --target .flash triton==3.7.1 flash-attn==2.8.3.post2
	touch .flash/ready && PYTHONPATH=.flash FLASH_ATTENTION_TRITON_AMD_ENABLE=TRUE TRITON_INTERPRET=1 $(BIN)/pytest -q tests/test_flash.py

docs: .venv/ready
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python nbs/_build.py

prepare: .venv/ready
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/nbdev_export
	$(BIN)/ruff check --fix nbs tests benchmarks && $(BIN)/ruff format nbs tests benchmarks
	PATH="$(CURDIR)/$(BIN):$$PATH"; $(BIN)/nbdev_export; $(BIN)/nbdev_clean; $(BIN)/python nbs/_build.py --readme

install: .venv/ready
.venv/ready: constraints.txt settings.ini setup.py
	$(PYTHON) -m venv .venv || { echo "python3-venv is missing: apt install python3-venv"; exit 1; }
	$(BIN)/pip install -q -c constraints.txt torch wheel
	$(BIN)/pip install -q -c constraints.txt -e '.[dev,docs]'
	touch $@
