# Each target sets up what it needs; the second time is quick. `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

OUT ?= out
PYTHON := .venv/bin/python
TOOL := $(or $(CARGO_TARGET_DIR),target)/release/sparse_refine
DEMO_SIZE ?= 3840x2160
DEMO_FRAMES ?= 8

.PHONY: help demo test test-core test-training check bench setup clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: ## system packages and the Python environment of the tests
	@scripts/setup.sh

$(TOOL): FORCE
	@scripts/setup.sh system
	@cargo build --release --locked
FORCE:

demo: $(TOOL) ## a sample 8 MP recording, replayed and scored; prints a table and the path of the report
	@rm -rf $(OUT)/demo && mkdir -p $(OUT)/demo
	@$(TOOL) synth $(OUT)/demo/bag --size $(DEMO_SIZE) --frames $(DEMO_FRAMES) --cameras 1 --seed 9100
	@$(TOOL) replay $(OUT)/demo/bag --model engines/streets --out $(OUT)/demo/replay

test: test-core test-training ## every test
	@echo "all tests passed"

test-core: ## the crate: unit, property, golden and interoperation tests
	@scripts/setup.sh system python
	@scripts/test_core.sh

test-training: ## the Python training package (skipped with a message where PyTorch cannot be had)
	@scripts/setup.sh torch || true
	@scripts/test_training.sh

check: ## formatting, lints, documentation, licences, every feature set
	@scripts/check.sh

bench: $(TOOL) ## coarse, refined (and dense, where the bundle has it) side by side in one run
	@$(TOOL) bench --model engines/streets --size $(DEMO_SIZE) --frames 10

clean: ## what the targets above made
	@rm -rf $(OUT) .venv && cargo clean
