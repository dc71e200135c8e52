# make install | demo | test | test-slow | test-docs | test-crash | test-exports | test-quant | test-ray | test-oldest | test-newest | check | dist | audit | fuzz | family DATA=dir | benchmark-quick | benchmark-scoring | benchmark-selection | benchmark-verification | benchmark-memory | benchmark-scaling DATA=dir | benchmark-peers
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
WORKERS ?= 2
export HF_HUB_OFFLINE = 1

.PHONY: install demo test test-slow test-docs test-crash test-exports test-quant test-ray test-oldest test-newest lint check dist audit fuzz family benchmark-scoring benchmark-selection benchmark-verification benchmark-memory benchmark-scaling benchmark-peers benchmark-quick clean

install: $(VENV)/.installed

# Reinstalled whenever the metadata or the constraints change.
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "staff needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV), PyTorch with it: this takes minutes."
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: install
	$(BIN)/staff demo --out runs/demo

# A file's tests stay in one process, long files first (tests/conftest.py); each process computes with one
# thread.
PARALLEL = -n $(WORKERS) --dist loadfile --no-loadscope-reorder
test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q $(PARALLEL)

test-slow: install
	$(BIN)/python -m pytest -q -m slow

# Every command of README.md and docs/, with those that take long.
test-docs: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m "slow or not slow" tests/docs

# Real processes killed at more than a hundred instants, and what they leave held to the byte.
test-crash: install
	$(BIN)/python tools/crash.py --write

# The exports of LLaMA-Factory and axolotl, opened and trained on by themselves. They live in
# environments of their own (2 GB), with only those of their dependencies that this takes: what else
# they need is borrowed from ours, and torchaudio, which LLaMA-Factory imports whatever the data, is an
# empty file.
test-exports: install $(patsubst tools/trainers/%.txt,build/%/.installed,$(wildcard tools/trainers/*.txt))
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q tests/exports/test_loaders.py

# Scoring on real Ray clusters of this machine, whose workers and nodes are killed. Ray lives in an
# environment of its own, which borrows the packages of the other.
test-ray: install build/ray/.installed
	OMP_NUM_THREADS=1 build/ray/bin/python -m pytest -q tests/scores/test_ray.py

build/ray/.installed: pyproject.toml $(VENV)/.installed
	$(BIN)/python -m venv build/ray
	$(BIN)/python -c 'import site; print(site.getsitepackages()[0])' \
	  > "$$(build/ray/bin/python -c 'import site; print(site.getsitepackages()[0])')/borrowed.pth"
	build/ray/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[ray]'
	touch $@

build/%/.installed: tools/trainers/%.txt $(VENV)/.installed
	$(borrowing)

build/peers/.installed: tools/peers.txt $(VENV)/.installed
	$(borrowing)

# An environment of the packages that $< pins, which borrows all others from ours.
define borrowing
	$(BIN)/python -m venv $(@D)
	$(@D)/bin/pip install --quiet --disable-pip-version-check --no-deps -r $<
	$(BIN)/python -c 'import site; print(site.getsitepackages()[0])' \
	  > "$$($(@D)/bin/python -c 'import site; print(site.getsitepackages()[0])')/borrowed.pth"
	touch "$$($(@D)/bin/python -c 'import site; print(site.getsitepackages()[0])')/torchaudio.py"
	touch $@
endef

# The oldest versions of the dependencies that pyproject.toml allows, and the newest there are, each in
# an environment of its own (1.5 GB, with torch's CUDA build 7); what was run is in docs/versions.md. The
# newest torch is that of constraints.txt.
OLDEST ?= build/oldest
NEWEST ?= build/newest
test-oldest: $(OLDEST)/.installed
	OMP_NUM_THREADS=1 $(OLDEST)/bin/python -m pytest -q $(PARALLEL)

test-newest:
	$(PYTHON) -m venv $(NEWEST)
	$(NEWEST)/bin/pip install --quiet --disable-pip-version-check --upgrade --upgrade-strategy eager \
	  -c constraints.txt -e '.[dev]'
	OMP_NUM_THREADS=1 $(NEWEST)/bin/python -m pytest -q $(PARALLEL)

$(OLDEST)/.installed: pyproject.toml constraints-oldest.txt
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/pip install --quiet --disable-pip-version-check -c constraints-oldest.txt -e '.[dev]'
	touch $@

# Weights in 4 and 8 bits, with bitsandbytes and torchao (150 MB) in an environment of their own that
# borrows the rest from ours.
QUANT := build/quant
test-quant: install $(QUANT)/.installed
	OMP_NUM_THREADS=1 PYTHONPATH=src $(QUANT)/bin/python -m pytest -q \
	  tests/models/test_quantised.py tests/training/test_qlora.py tests/test_quantised_runs.py \
	  tests/exports/test_trl_quantised.py

$(QUANT)/.installed: tools/quant.txt $(VENV)/.installed
	$(BIN)/python -m venv $(QUANT)
	$(QUANT)/bin/pip install --quiet --disable-pip-version-check --no-deps -r $<
	$(BIN)/python -c 'import site; print(site.getsitepackages()[0])' \
	  > "$$($(QUANT)/bin/python -c 'import site; print(site.getsitepackages()[0])')/borrowed.pth"
	touch $@

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: lint test

# A wheel, installed in a fresh environment outside the tree, and the demo from it.
dist: install
	rm -rf dist
	$(BIN)/python -m build --quiet --wheel --sdist
	$(BIN)/python tools/try_wheel.py dist/*.whl

# Known vulnerabilities (needs pypi.org) and licences of the dependencies, into docs/audit.md. Fails
# where a vulnerability is known, or a package could not be looked up.
audit: install
	$(PYTHON) -m venv build/audit
	build/audit/bin/pip install --quiet --disable-pip-version-check pip-audit pip-licenses
	$(BIN)/python tools/audit.py --tools build/audit/bin --out docs/audit.md

family: install
	@test -n "$(DATA)" || { echo "make family DATA=dir: a folder with medquad/, gsm8k/ and clinc150/"; exit 1; }
	$(BIN)/python tools/pretrain_family.py --data $(DATA) --out src/staff/assets/family

benchmark-scoring: install
	$(BIN)/python benchmarks/scoring.py --write

benchmark-verification: install
	$(BIN)/python benchmarks/verification.py --write

benchmark-selection: install
	$(BIN)/python benchmarks/selection.py --write

benchmark-memory: install
	$(BIN)/python benchmarks/memory.py --write

# The same norms by opacus, bergson and torch.func; the first two in an environment of their own (180 MB).
benchmark-peers: install build/peers/.installed
	PYTHONPATH=src build/peers/bin/python benchmarks/peers.py --write

# DATA: a folder with the sets that the script names.
benchmark-scaling: install
	$(BIN)/python benchmarks/scaling.py --data $(DATA) --full --write

# Inputs that nobody thought of, guided by coverage: a million data files, and so on; the record of it
# is benchmarks/results/fuzz.md. Atheris lives in an environment of its own, which borrows the packages
# of the other. One target without end: .fuzz-venv/bin/python fuzz/run.py records
FUZZ := .fuzz-venv
fuzz: $(FUZZ)/.installed
	$(FUZZ)/bin/python fuzz/campaign.py --write

$(FUZZ)/.installed: $(VENV)/.installed
	$(BIN)/python -m venv $(FUZZ)
	$(FUZZ)/bin/pip install --quiet --disable-pip-version-check atheris==3.0.0
	$(BIN)/python -c 'import site; print(site.getsitepackages()[0])' \
	  > "$$($(FUZZ)/bin/python -c 'import site; print(site.getsitepackages()[0])')/borrowed.pth"
	touch $@

# A small version of the grid in benchmarks/results/grid.md, from what staff ships.
benchmark-quick: install
	$(BIN)/python benchmarks/grid.py quick

clean:
	rm -rf $(VENV) $(FUZZ) dist build runs .pytest_cache .mypy_cache .ruff_cache
