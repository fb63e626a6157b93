# Each target sets up .venv from nothing, once.
PYTHON ?= python3
BIN := .venv/bin
WORKDIR ?= runs/quickstart

.PHONY: quickstart test test-slow parity tpu-check golden lint benchmarks benchmark-analysis benchmark-autoattack benchmark-backbones benchmark-input clean

quickstart: .venv/runtime
	$(BIN)/python main.py --config=configs/quickstart.py --workdir=$(WORKDIR)

test: .venv/dev
	$(BIN)/python -m pytest -n auto --maxprocesses 8

test-slow: .venv/dev
	$(BIN)/python -m pytest -m slow -n auto --maxprocesses 8

parity: .venv-parity/done
	.venv-parity/bin/python -m pytest tests/parity

tpu-check: .venv-tpu/done
	JAX_PLATFORMS=cpu .venv-tpu/bin/python -m pytest -m "slow or not slow" tests/training/test_ahead_of_time.py

golden: .venv-parity/done
	PYTHONPATH=tests .venv-parity/bin/python tests/golden/write.py

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

benchmarks: .venv/dev
	$(BIN)/python benchmarks/topk_mean.py
	$(BIN)/python benchmarks/train_step.py
	$(BIN)/python benchmarks/attacks.py
	$(BIN)/python benchmarks/scaling.py

benchmark-autoattack: .venv-parity/done
	PYTHONPATH=tests .venv-parity/bin/python benchmarks/autoattack.py --json runs/autoattack.jsonl

benchmark-analysis: .venv-parity/done
	.venv-parity/bin/python benchmarks/analysis.py --json runs/analysis.jsonl

benchmark-input: .venv-parity/done
	.venv-parity/bin/python benchmarks/input.py --workers 1,2 --json runs/input.jsonl

benchmark-backbones: .venv-parity/done
	.venv-parity/bin/python benchmarks/backbones.py --json runs/backbones.jsonl

.venv/bin/python:
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip

.venv/runtime: requirements.txt pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet -r requirements.txt --editable .
	touch $@

.venv/dev: requirements-dev.txt .venv/runtime
	$(BIN)/python -m pip install --quiet -r requirements-dev.txt
	touch $@

.venv-parity/done: requirements-parity.txt requirements-dev.txt requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv-parity
	.venv-parity/bin/python -m pip install --quiet --upgrade pip
	.venv-parity/bin/python -m pip install --quiet -r requirements-parity.txt --editable .
	# torchattacks brings an old copy of RobustBench along, which the second line replaces.
	.venv-parity/bin/python -m pip install --quiet --no-deps torchattacks==3.5.1 grad-cam==1.5.7 imagecorruptions==1.1.2
	.venv-parity/bin/python -m pip install --quiet --no-deps --force-reinstall robustbench==1.1.1
	touch $@

# On its own, since JAX looks for a TPU at every start where libtpu is installed.
.venv-tpu/done: requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv-tpu
	.venv-tpu/bin/python -m pip install --quiet --upgrade pip
	.venv-tpu/bin/python -m pip install --quiet -r requirements.txt libtpu pytest --editable .
	touch $@

clean:
	rm -rf .venv .venv-parity .venv-tpu runs build dist *.egg-info
