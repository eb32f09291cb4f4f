# Every task of this project; `make help` lists them. CI (.ci/run) calls these targets and nothing else.
# What a target needs it installs itself: Python packages into .venv, and, for the image tests and as root, Debian packages.
# Nothing here names a package index: where pip looks is the user's own configuration.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
PORT ?= 8080
HOST ?= 127.0.0.1
# What goes into an image: torch, or onnx for a small one without it.
EXTRAS ?= torch
IMAGE ?= wharf
VERSION := $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' serving/__init__.py)
REVISION := $(shell git rev-parse --short HEAD 2>/dev/null || echo unknown)

BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq
# A stamp stands for a finished installation; one older than what it was made from is made again.
STAMP := .venv/.stamp
SOURCES := $(shell find serving -name '*.py' -o -name '*.toml' 2>/dev/null)

##@ Use
.PHONY: help
help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} \
	  /^[a-zA-Z_\/%-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: serve
serve: models-small ## Serve the small sample models on 127.0.0.1:8080 (PORT=... for another port); no torch
	@echo "Serving $(CURDIR)/models on http://$(HOST):$(PORT). Try in another terminal:"
	@echo "  curl http://$(HOST):$(PORT)/models"
	@echo "  curl -H 'Content-Type: application/json' -d '{\"instances\": [[5.1, 3.5, 1.4, 0.2]]}' http://$(HOST):$(PORT)/models/iris_onnx/invoke"
	@echo "Stop with Ctrl-C."
	@WHARF_MODEL_ROOT="$(CURDIR)/models" WHARF_HOST=$(HOST) WHARF_PORT=$(PORT) exec $(BIN)/wharf serve

.PHONY: install
install: $(STAMP)-serve ## Install the product into .venv: .venv/bin/wharf; no torch

.PHONY: models-small
models-small: $(STAMP)-samples ## Build the three small sample models into ./models; no torch
	@$(BIN)/python model_repo_templates/build.py --out models --set small

.PHONY: models
models: $(STAMP)-dev $(STAMP)-torch ## Build every sample model into ./models (ResNet-50 and BERT-base too); brings torch
	@$(BIN)/python model_repo_templates/build.py --out models --set all

##@ Develop
.PHONY: install-dev
install-dev: $(STAMP)-dev $(STAMP)-torch ## Install the product, torch, and all that the tests and checks need

.PHONY: check
check: $(STAMP)-dev ## Format, lint, types, floors, Dockerfiles, shell scripts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/hadolint docker/*/Dockerfile docker/standins/*.Dockerfile
	$(BIN)/shellcheck .ci/run docker/entrypoint.sh $$(grep -lE '^#!.*bash' scripts/*)

.PHONY: test
test: cover ## Run every test but those of the images: first `cover`, then the tests of whole servers
	$(BIN)/python -m pytest -m "not image" --ignore tests/unit --ignore tests/state --ignore tests/workers --ignore tests/gpu --ignore tests/tfs --server wharf

# SERVER: triton, wharf or both. RECORD=--record with SERVER=triton writes down anew what a real tritonserver answers.
.PHONY: test-oracle
test-oracle: $(STAMP)-dev .oracle/.stamp ## Ask a real tritonserver and ours the same by tritonclient and compare; `make test` asks ours alone
	$(BIN)/python -m pytest tests/oracle --server $(or $(SERVER),both) $(RECORD)

.PHONY: cover
cover: install-dev models .oracle/.stamp ## Run the tests of rooms, state machines, workers, device memory and TensorFlow's language; hold branch coverage to its gate (pyproject.toml)
	$(BIN)/python -m pytest tests/unit tests/state tests/workers tests/gpu tests/tfs --cov --cov-report=term-missing:skip-covered

.PHONY: bench
bench: install-dev models ## Run the benchmarks and print their ratios
	@for bench in overhead payload resnet batching footprint workers $(if $(wildcard .oracle/.stamp),v2); do \
	  echo "== $$bench"; $(BIN)/python benchmarks/$$bench.py models; done

.PHONY: bench-v2
bench-v2: $(STAMP)-dev .oracle/.stamp ## Measure Triton's protocol beside a real tritonserver, over HTTP and gRPC
	$(BIN)/python benchmarks/v2.py

.PHONY: bench-generate
bench-generate: install-dev ## Print tokens a second and the time to the first one through the server, beside the bare model (ARGS="--ranks" splits it, too)
	$(BIN)/python benchmarks/generate.py $(ARGS)

.PHONY: bench-tensorflow
bench-tensorflow: install-dev ## Print ours beside TensorFlow's own loop over the same SavedModels, without a server
	$(BIN)/python benchmarks/tensorflow.py

.PHONY: bench-triton
bench-triton: install-dev .oracle/.stamp ## Print ours beside tritonserver's own SageMaker front end, and what shared memory saves (as root)
	$(BIN)/python benchmarks/multimodel.py
	$(BIN)/python benchmarks/triton_memory.py

.PHONY: bench-gpu
bench-gpu: install-dev ## Fill a GPU with copies of five networks and print how many it holds (ARGS="--device cpu --budget 2GiB" for host memory)
	$(BIN)/python benchmarks/gpu.py $(ARGS)

.PHONY: docs
docs: $(STAMP)-serve ## Write docs/settings.md and docs/lifecycle.md from their sources
	$(BIN)/python scripts/docs.py

.PHONY: lock
lock: $(STAMP)-dev ## Resolve requirements/*.txt anew, with hashes
	PATH="$(CURDIR)/$(BIN):$$PATH" scripts/lock

##@ Images
.PHONY: wheel
wheel: dist/.stamp-wheel dist/wheels/.stamp-$(EXTRAS) ## Build the wheel of serving into dist/, and fetch torch's CPU wheel into dist/wheels/

.PHONY: build/cpu
build/cpu: wheel ## Build an image (EXTRAS=onnx for one without torch, BASE_IMAGE=... for another base)
	$(build) --build-arg EXTRAS=$(EXTRAS) .

.PHONY: build/triton
build/triton: dist/.stamp-wheel ## Build the image in front of NVIDIA's tritonserver (BASE_IMAGE=... for another base)
	$(build) .

.PHONY: build/graviton
build/graviton: PLATFORM ?= linux/arm64
build/graviton: dist/.stamp-wheel ## Build the image with TensorFlow, for arm64 (PLATFORM=linux/amd64 for x86-64; any machine builds either)
	$(build) $(if $(BUILD_IMAGE),--build-arg BUILD_IMAGE=$(BUILD_IMAGE)) .

.PHONY: build/djl
build/djl: dist/.stamp-wheel dist/wheels/.stamp-torch ## Build the image for large models, with DeepSpeed (BASE_IMAGE=... for another base)
	$(build) $(if $(BASE_PYTHON),--build-arg PYTHON=$(BASE_PYTHON)) .

build = scripts/docker-build --file docker/$(@F)/Dockerfile --tag $(IMAGE):$(@F) $(if $(PLATFORM),--platform $(PLATFORM)) \
  $(if $(BASE_IMAGE),--build-arg BASE_IMAGE=$(BASE_IMAGE)) --build-arg VERSION=$(VERSION) --build-arg REVISION=$(REVISION)

.PHONY: test-image/cpu
test-image/cpu: $(STAMP)-dev ## Build an image and test it in a real Docker engine, started and stopped where there is none
	$(test-image)

# All of them, but where they are about torch, which this image has not.
TESTS_OF_cpu := .
# Those of a running container with x86-64's image, at full speed; arm64's has tests of its own.
TESTS_OF_graviton := test_image_runs.py test_image_graviton.py
TESTS_OF_djl := test_image_runs.py test_image_djl.py
TESTS_OF_triton := test_image_contract.py test_image_runs.py test_image_triton.py

.PHONY: test-image/triton
test-image/triton: $(STAMP)-dev ## The same for the image in front of tritonserver, on a stand-in base that has the real one
	$(test-image)

.PHONY: test-image/graviton
test-image/graviton: $(STAMP)-dev ## The same for the image with TensorFlow: x86-64's, and arm64's on three emulated CPUs
	$(test-image)

.PHONY: test-image/djl
test-image/djl: $(STAMP)-dev $(STAMP)-torch ## The same for the image for large models: a group of ranks in a container
	$(test-image)

test-image = $(BIN)/python -m pytest -m image $(addprefix tests/image/,$(TESTS_OF_$(@F))) --flavour $(@F) --log-cli-level=INFO --durations=10

##@ Housekeeping
.PHONY: clean
clean: ## Remove what was built or installed here; stop and remove the private Docker engine
	scripts/engine purge
	rm -rf .venv .oracle dist build models *.egg-info .coverage .pytest_cache .mypy_cache .ruff_cache .hypothesis

# --- stamps -----------------------------------------------------------------------------------------------------------

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Wharf needs Python 3.11 or newer and" \
	  "'$(PYTHON)' is $$($(PYTHON) --version 2>&1 || true): name another one, as in 'make serve PYTHON=python3.12'." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) has no venv module:" \
	  "install it, on Debian and Ubuntu with 'apt-get install python3-venv'." >&2; exit 1; }
	@echo "Making .venv with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv .venv

# $(1): lock file. The product itself is installed in place, so that an edited source is what runs.
define install
	@echo "Installing requirements/$(1).txt into .venv (the first time takes a minute)"
	@$(PIP) install --require-hashes -r requirements/build.txt -r requirements/$(1).txt
	@$(PIP) install --no-index --no-deps --no-build-isolation --editable .
	@touch $@
endef

$(STAMP)-serve: requirements/serve.txt requirements/build.txt pyproject.toml | .venv/bin/python
	$(call install,serve)

$(STAMP)-samples: requirements/samples.txt requirements/build.txt pyproject.toml | .venv/bin/python
	$(call install,samples)
	@touch $(STAMP)-serve

$(STAMP)-dev: requirements/dev.txt requirements/build.txt pyproject.toml | .venv/bin/python
	$(call install,dev)
	@touch $(STAMP)-serve $(STAMP)-samples

.oracle/.stamp: requirements/oracle.txt | .venv/bin/python
	@echo "Installing a real tritonserver into .oracle"
	@$(BIN)/python -m venv .oracle/venv
	@.oracle/venv/bin/python -m pip --disable-pip-version-check -qq install --no-deps --require-hashes -r requirements/oracle.txt
	@touch $@

# By itself and without its needs, which are locked: see requirements/torch-deps.in.
$(STAMP)-torch: requirements/beside-torch.txt $(STAMP)-dev
	@echo "Installing torch 2.13.0, and accelerate and DeepSpeed for split models, into .venv"
	@$(PIP) install --no-deps torch==2.13.0
	@DS_BUILD_OPS=0 $(PIP) install --no-deps --no-build-isolation --require-hashes -r requirements/beside-torch.txt
	@touch $@

dist/.stamp-wheel: $(SOURCES) pyproject.toml requirements/build.txt | .venv/bin/python
	@mkdir -p dist && rm -f dist/wharf_serving-*.whl
	@$(PIP) install --require-hashes -r requirements/build.txt
	@$(PIP) wheel --no-index --no-deps --no-build-isolation --wheel-dir dist .
	@rm -rf build && touch $@ && ls dist/*.whl

dist/wheels/.stamp-onnx:
	@mkdir -p dist/wheels && touch $@

dist/wheels/.stamp-torch: | .venv/bin/python
	$(BIN)/python scripts/torch_wheel.py dist/wheels
	@touch $@
