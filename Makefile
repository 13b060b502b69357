# Run `make` for the list of targets.
VENV := .venv/bin
ARGS ?=
# Machines at once. Tests of one file share a machine, so files stay whole.
JOBS ?= 2
PARALLEL := -n $(JOBS) --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help setup run test test-unit test-qtest test-e2e matrix fuzz soak bench check format lock sbom doctor clean venv

help: ## this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z0-9-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo '  Options: ARGS="..." for the command behind run and test; QEMU=, KERNEL=,'
	@echo '  ACCEL=, KEEP=1 in the environment. What set-up downloads and builds is cached in ~/.cache/vdxgk.'

venv:
	@tools/bootstrap.sh

setup: venv ## the Python environment, QEMU, a guest kernel, the stub, the initramfs
	@$(VENV)/vdxgk setup

run: setup ## the main job: boot a guest, remap, do DMA both ways, verify, report
	@$(VENV)/vdxgk run $(ARGS)

doctor: venv ## what this host lacks, and the line that fixes it
	@$(VENV)/vdxgk doctor

test: setup check test-unit test-qtest test-e2e ## everything: static checks, unit and protocol tests, real guests

test-unit: venv ## unit and protocol tests: no QEMU
	$(VENV)/python -m pytest tests/unit tests/protocol tests/fuzz $(ARGS)

test-qtest: setup ## DMA cases on real QEMU without an operating system
	$(VENV)/python -m pytest $(PARALLEL) tests/qtest $(ARGS)

test-e2e: venv ## tests with real QEMU and real guests, on three kernels
	@$(VENV)/vdxgk setup --kernel all
	$(VENV)/python -m pytest $(PARALLEL) tests/e2e $(ARGS)

matrix: venv ## the proof with every IOMMU and every kernel; make test runs a selection
	@$(VENV)/vdxgk setup --kernel all
	$(VENV)/python -m pytest -n $(JOBS) --dist load tests/e2e/test_proof.py tests/e2e/test_stub.py \
		--matrix -k "proven or physical_mode" $(ARGS)

fuzz: venv ## coverage-guided, a minute long; ARGS="channel CORPUS -max_total_time=600"
	@[ -x .venv-fuzz/bin/python ] || $(VENV)/python -m venv .venv-fuzz
	@.venv-fuzz/bin/python -m pip --disable-pip-version-check install -q 'atheris>=3,<4' \
		click isal numpy pillow sortedcontainers structlog
	@mkdir -p results/fuzz/session results/fuzz/table results/fuzz/channel
	PYTHONPATH=device:device/pyvfio-user .venv-fuzz/bin/python -m tests.fuzz.coverage_guided $(or $(ARGS),\
		session results/fuzz/session tests/fuzz/corpus/session -max_total_time=60)

soak: setup ## everything at once, for as long as ARGS="--minutes 30" says
	@$(VENV)/python -m tests.soak $(ARGS)

bench: setup ## ratios to the floor of this machine, measured in the same run
	@$(VENV)/vdxgk bench $(ARGS)

check: venv ## ruff, mypy --strict, import layers
	$(VENV)/ruff check .
	$(VENV)/ruff format --check .
	$(VENV)/mypy
	$(VENV)/lint-imports

format: venv ## rewrite the Python sources in the house style
	$(VENV)/ruff check --fix-only .
	$(VENV)/ruff format .

lock: ## resolve the dependencies anew (needs uv)
	uv pip compile pyproject.toml --group dev --extra plots --universal --python-version 3.11 --upgrade \
		--generate-hashes --no-emit-package pyvfio-user --no-annotate --no-emit-index-url \
		--custom-compile-command 'make lock' --output-file requirements.lock
	echo cyclonedx-bom | uv pip compile - --universal --python-version 3.11 --upgrade \
		--generate-hashes --no-annotate --no-emit-index-url \
		--custom-compile-command 'make lock' --output-file tools/sbom.lock

sbom: venv ## results/sbom.json: Python's packages, and Debian's of the sysroots (CycloneDX)
	@[ -x .venv-sbom/bin/cyclonedx-py ] || { $(VENV)/python -m venv .venv-sbom && \
		.venv-sbom/bin/python -m pip --disable-pip-version-check install -q --require-hashes \
		-r tools/sbom.lock; }
	@$(VENV)/python tools/sbom.py .venv-sbom/bin results/sbom.json

clean: ## remove what was made in this checkout (the cache stays)
	rm -rf .venv .venv-fuzz .venv-sbom dist results .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
