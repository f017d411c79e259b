# `make book` and `make test` do everything from nothing but Python and make. `make help` lists the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TRAIN_ENV := MALLOC_MMAP_THRESHOLD_=17179869184 MALLOC_TRIM_THRESHOLD_=17179869184 MALLOC_TOP_PAD_=67108864

.PHONY: help book test test-perturbed lab bench gpu lint refresh toybox toybox-report clean
.DEFAULT_GOAL := help

help:  ## list the commands
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(STAMP): pyproject.toml constraints.txt
	@echo "Setting up $(VENV) (once; a few minutes)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[book,train,test]'
	@touch $@

book: $(STAMP)  ## build the book and say where to open it
	@$(BIN)/jupyter-book build . -W -n --keep-going --quiet
	@echo "The book is built: open $(CURDIR)/_build/html/index.html"

test: $(STAMP)  ## run the tests and every chapter
	$(BIN)/python -m pytest
	@if ls book/*.ipynb > /dev/null 2>&1; then $(BIN)/python -m pytest --nbval book/; else echo "book/ has no notebooks"; fi

lab: $(STAMP)  ## open the chapters in JupyterLab
	@test -x $(BIN)/jupyter-lab || $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt '.[lab]'
	$(BIN)/jupyter-lab book

bench: $(STAMP)  ## measure, side by side, and write bench/results.json
	$(BIN)/python -m bench

test-perturbed: $(STAMP)  ## run every chapter as on a device that computes a little differently
	ELITE_NOISE=1e-5 ELITE_BUDGET_FACTOR=0 $(BIN)/python -m pytest --nbval book/

gpu:  ## on a GPU, with PYTHON's torch: chapters, tests and measurements; logs go to build/gpu
	PYTHON=$(PYTHON) tools/gpu_rehearsal.sh build/gpu

lint: $(STAMP)  ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

refresh: $(STAMP)  ## run all chapters again and keep their outputs
	$(BIN)/python tools/refresh.py

toybox: $(STAMP)  ## train the bundled miniature from a seed (many hours on two cores)
	$(TRAIN_ENV) $(BIN)/python -m elite.toybox.train_all

toybox-report: $(STAMP)  ## measure the bundled miniature; sheets of pictures go to build/
	@$(BIN)/python -m elite.toybox.report

clean:  ## remove what builds leave, the virtual environment included
	rm -rf $(VENV) _build build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
