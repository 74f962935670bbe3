# make demo   the main job, end to end      make test    all tests (test-fast: those without a server)
# make check  lint, format, types           make bench   the benchmarks (bench-peers: beside other servers)
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test test-fast check format bench bench-generate bench-peers clean

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Headwaiter needs Python 3.11 or newer; set PYTHON=…" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt $(TORCH)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[demo,dev]'
	@touch $@

# An unpinned torch would bring several GB of CUDA packages to a machine without a GPU.
TORCH := $(shell grep '^torch==' constraints.txt)

demo: $(STAMP)
	$(BIN)/headwaiter demo $(ARGS)

test: $(STAMP)
	$(BIN)/python -m pytest $(PARALLEL) $(ARGS)

test-fast: $(STAMP)
	$(BIN)/python -m pytest $(PARALLEL) -m 'not server' $(ARGS)

# ARGS='-n 0' runs the tests one after the other.
PARALLEL := -n auto --dist loadgroup --no-loadscope-reorder

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench-generate: $(STAMP)
	$(BIN)/python -m bench generate $(ARGS)

bench-peers: $(STAMP)
	$(BIN)/python -m bench peers $(ARGS)

bench: $(STAMP)
	$(BIN)/python -m bench $(ARGS)

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
