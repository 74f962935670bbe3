# make demo   the main job, end to end      make test    all but what takes long (test-fast: what takes no time;
#                                                        test-long: what takes long)
# make check  lint, format, types           make bench   the benchmarks (bench-peers: beside other servers)
# Each makes the environment first. Without an NVIDIA GPU torch comes from PyTorch's CPU index; TORCH_INDEX=URL names
# another one, TORCH_INDEX= (empty) means pip's configured sources.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: audit demo test test-fast check format bench bench-generate bench-peers clean

$(STAMP): pyproject.toml constraints.txt scripts/install.py
	@$(PYTHON) -c 'import sys; sys.exit("Headwaiter needs Python 3.11 or newer; set PYTHON=…" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) scripts/install.py "$(VENV)"
	@touch $@

demo: $(STAMP)
	$(BIN)/headwaiter demo $(ARGS)

test: $(STAMP)
	$(BIN)/python -m pytest $(PARALLEL) -m 'not long and not sweep and not integration' $(ARGS)

# What make test leaves out.
.PHONY: test-long
test-long: $(STAMP)
	$(BIN)/python -m pytest $(PARALLEL) -m '(long or sweep) and not integration' $(ARGS)

# Beside other products: those that are not installed are skipped with a reason (docs/development.md lists the packages).
.PHONY: test-integration
test-integration: $(STAMP)
	$(BIN)/python -m pytest -n 0 -m integration $(ARGS)

test-fast: $(STAMP)
	$(BIN)/python -m pytest $(PARALLEL) -m 'not server and not sweep and not slow and not integration' --ignore=tests/e2e $(ARGS)

# ARGS='-n 0' runs the tests one after the other.
PARALLEL := -n auto

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The pinned dependencies against the published advisories; in an environment of its own, because it brings packages.
audit:
	$(PYTHON) -m venv $(VENV)-audit
	$(VENV)-audit/bin/pip install --quiet "pip-audit>=2.9,<3"
	$(VENV)-audit/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip $(ARGS)

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

# The parts of the suite that depend on processor or surroundings, under others; ARGS: which, and after -- pytest's own.
.PHONY: test-machines
test-machines: $(STAMP)
	$(BIN)/python -m tests.machines $(ARGS)

# Every architecture and head against plain transformers, and docs/tasks.md against that; ARGS=--write rewrites the page.
.PHONY: test-families
test-families: $(STAMP)
	$(BIN)/python -m tests.sweep $(ARGS)
