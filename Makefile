# Two commands for a newcomer: `make demo` and `make test`. Each makes .venv and installs what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
BENCH := /tmp/picual-bench

.PHONY: demo test check unit fix docs bench screenshot live-azure azure-variables
demo: $(VENV)/ready
	$(BIN)/picual demo

test: check unit

check: $(VENV)/ready
	$(BIN)/ruff format --check src tests examples benchmarks
	$(BIN)/ruff check src tests examples benchmarks
	$(BIN)/mypy
	$(BIN)/lint-imports

# Unit tests side by side, one core each; those of the real model one after the other, as they use all cores.
unit: $(VENV)/ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/unit --numprocesses logical --maxprocesses 8 --dist worksteal --durations 10
	$(BIN)/python -m pytest tests/integration --numprocesses logical --maxprocesses 2 --dist loadfile --durations 10

# All that can be measured without a model; with MODEL=FOLDER (a float checkpoint) and TEXT=FILE (a long text) also
# what quantizing does to that model, and how fast it is built and answers beside the runtime's own builder's; with
# MODEL and ROWS=FILE (JSON lines with phrase and tone) how fast it is trained, and what of that survives deployment.
bench: $(VENV)/ready
	$(BIN)/python benchmarks/waits.py
	$(BIN)/python benchmarks/kill.py --times 20
	$(BIN)/python benchmarks/kill.py --times 10 --search
	$(BIN)/python benchmarks/kill.py --times 20 --quantize
	$(BIN)/python benchmarks/kill.py --times 10 --quantize fast
	$(BIN)/python benchmarks/search.py compare
	$(BIN)/python benchmarks/scale.py --trials 1500 --workers 50
	PICUAL_EVERYTHING=1 $(BIN)/python -m pytest tests/integration/test_ray.py tests/integration/test_azure.py
	$(BIN)/python benchmarks/product_speeds.py
	$(BIN)/python benchmarks/mlflow_folders.py
	$(BIN)/python benchmarks/quantization.py memory --gigabytes 0.5 1 2 4
ifneq ($(and $(MODEL),$(TEXT)),)
	$(BIN)/python benchmarks/quantization.py quality "$(MODEL)" "$(TEXT)" --keep $(BENCH)/ours \
		--table $(BENCH)/table.json
	$(BIN)/python benchmarks/quantization_plots.py $(BENCH)/table.json $(BENCH)
	rm -rf $(BENCH)/k_quant $(BENCH)/k_quant_last
	for kind in k_quant k_quant_last; do $(BIN)/python -m onnxruntime_genai.models.builder -i "$(MODEL)" \
		-o $(BENCH)/$$kind -p int4 -e cpu -c $(BENCH)/cache --extra_options algo_config=$$kind || exit 1; done
	$(BIN)/python benchmarks/decoding.py $(BENCH)/ours/balanced-103MB $(BENCH)/k_quant_last \
		$(if $(LLAMA),--llama $(LLAMA))
	$(BIN)/python benchmarks/decoding.py $(BENCH)/ours/balanced-89MB $(BENCH)/k_quant $(if $(LLAMA),--llama $(LLAMA))
	$(BIN)/python benchmarks/building.py "$(MODEL)"
endif
ifneq ($(and $(MODEL),$(ROWS)),)
	$(BIN)/python benchmarks/finetuning.py "$(MODEL)" "$(ROWS)" $(if $(PEER),--peer $(PEER))
	$(BIN)/python benchmarks/deployment.py "$(MODEL)" "$(ROWS)"
endif
ifeq ($(MODEL),)
	@echo "skipped, as no model and text were given: building.py, quantization.py quality, decoding.py."
	@echo 'Try make bench MODEL=FOLDER TEXT=FILE, and LLAMA="PYTHON FILE.gguf" to time llama.cpp beside them'
endif

# The test of docs/guides/azureml.md in a workspace of yours. It starts a node and registers a model.
live-azure: azure-variables $(VENV)/ready
	PICUAL_AZURE_LIVE=1 $(BIN)/python -m pytest tests/integration/test_azure.py -k guide

azure-variables:
	@test -f "$(PICUAL_AZURE_CONFIG)" || { echo "set PICUAL_AZURE_CONFIG to the config.json of your workspace" >&2; exit 2; }
	@test -n "$(PICUAL_AZURE_COMPUTE)" || { echo "set PICUAL_AZURE_COMPUTE to a compute of your workspace" >&2; exit 2; }

fix: $(VENV)/ready
	$(BIN)/ruff format src tests examples benchmarks
	$(BIN)/ruff check --fix src tests examples benchmarks

# Reference pages that the program writes itself; they are not kept in git.
docs: $(VENV)/ready
	mkdir -p docs/reference
	$(BIN)/picual schema > docs/reference/recipe.schema.json
	$(BIN)/picual schema report > docs/reference/report.schema.json
	for name in $$($(BIN)/picual passes list); do $(BIN)/picual passes show $$name > docs/reference/$$name.txt; done

# The picture in docs/images, drawn anew after a change of the report page; needs Chromium.
screenshot: $(VENV)/ready
	$(BIN)/python docs/images/make_report_screenshot.py

$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@
