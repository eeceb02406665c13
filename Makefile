# One environment for everything; its stamp is newer than setup.cfg once it is installed.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: quickstart test bench bench-peers oracle test-peers test-transformers4 notebooks lint install clean

quickstart: $(STAMP)  ## train, swap and evaluate on the embedded miniature world, offline
	$(BIN)/madx quickstart

test: $(STAMP)  ## all tests
	$(BIN)/python -m pytest

oracle: $(STAMP)  ## how far madx is from the incumbent's own numbers, case by case
	$(BIN)/python tests/interop/oracle_table.py

# The incumbent pins transformers 4.57, so it gets an environment of its own.
PEERS ?= .venv-peers
$(PEERS)/.installed: setup.cfg
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet -e '.[test]' 'transformers>=4.57,<5' 'adapters==1.3.0'
	touch $@

# never published as a package; its sources are read, its trainers are not imported
$(PEERS)/composable-sft: | $(PEERS)/.installed
	git clone --quiet --depth 1 https://github.com/cambridgeltl/composable-sft $@

test-peers: $(PEERS)/.installed $(PEERS)/composable-sft  ## live round trips with AdapterHub's adapters and composable-sft
	$(PEERS)/bin/python tests/peers/round_trip.py
	$(PEERS)/bin/python tests/peers/composable_sft.py --source $(PEERS)/composable-sft/src

test-transformers4: $(PEERS)/.installed  ## all tests on transformers 4.57
	$(PEERS)/bin/python -m pytest

notebooks: $(STAMP)  ## run the notebooks and keep their outputs
	$(BIN)/python tests/notebook_tools.py

BENCH ?= --out runs/benchmarks
bench: $(STAMP)  ## speed and memory: a table, JSON and a plot in runs/benchmarks; BENCH='--only train --shape small'
	$(BIN)/python benchmarks/run.py $(BENCH)

bench-peers: $(PEERS)/.installed  ## the same, with AdapterHub's adapters interleaved
	$(PEERS)/bin/python benchmarks/run.py $(BENCH)

lint: $(STAMP)
	$(BIN)/ruff check madx pipelines benchmarks tests

install: $(STAMP)  ## the environment alone

$(STAMP): setup.cfg pyproject.toml
	$(PYTHON) -c "import sys; sys.exit(0 if sys.version_info >= (3, 10) else 'madx needs Python 3.10 or newer; set PYTHON=python3.x')"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e '.[test]'
	touch $(STAMP)

clean:
	rm -rf $(VENV) build dist *.egg-info
