# Two commands set a fresh machine up: `make demo` and `make test`.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STUDY  ?= demo
OUT    ?= runs/$(STUDY)

.PHONY: demo test test-slow test-processors check format docs clean
.DEFAULT_GOAL := help

help:
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(VENV)/core: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	touch $@

$(VENV)/dev: $(VENV)/core
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	touch $@

$(VENV)/docs: $(VENV)/dev
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[docs]"
	touch $@

demo: $(VENV)/core  ## a scaling law of Vision Transformers, measured on this machine
	$(BIN)/scalevit study $(STUDY) --out $(OUT)

test: $(VENV)/dev  ## the whole test suite but the slow cases
	$(BIN)/python -m pytest -n 2

# what depends on the processor: kernels, optimizers, the model, the authors' numbers
PROCESSOR_TESTS := tests/kernels/test_cpu.py tests/kernels/test_cpu_products.py tests/kernels/test_attention.py \
  tests/kernels/test_shapes.py tests/optim/test_optimizers.py tests/model/test_vit.py tests/tools/test_parity.py \
  tests/distributed/test_activation_checkpointing.py
ON_PROCESSOR    := $(BIN)/python -m pytest -n 2 --no-header --durations=0 --durations-min=20 $(PROCESSOR_TESTS)

test-processors: $(VENV)/dev  ## a chosen part of the tests, limited to what other processors have
	ATEN_CPU_CAPABILITY=default SCALEVIT_NATIVE=0 $(ON_PROCESSOR)
	ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 CC="$(or $(CC),cc) -mno-avx512f" $(ON_PROCESSOR)
	ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16 CC="$(or $(CC),cc) -mno-amx-bf16" $(ON_PROCESSOR)

$(VENV)/clusters: $(VENV)/dev
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[ray]"
	touch $@

test-slow: $(VENV)/clusters  ## what takes minutes or breaks things on purpose
	$(BIN)/python -m pytest -m slow -n 2 --dist loadfile --ignore tests/tools/bench/test_bench.py
	$(BIN)/python -m pytest -m slow tests/tools/bench/test_bench.py  # steps are timed: nothing else may run

check: $(VENV)/dev  ## format, lint, types, tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(MAKE) test

docs: $(VENV)/docs  ## the documentation site, in site/; notebooks are run, warnings are errors
	$(BIN)/python -m mkdocs build --clean --quiet

format: $(VENV)/dev  ## let ruff rewrite what it can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## remove the environment and the demo's runs
	rm -rf $(VENV) runs/demo runs/demo-small
