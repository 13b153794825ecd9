# Everything sets itself up in .venv: Python 3.10+, make and a C++17 compiler are enough.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check -q
SOURCES := $(wildcard csrc/*/*.cpp csrc/*/*.h) setup.py pyproject.toml

DEMO := generate demo "def read_lines(path):" --max-tokens 80 --temperature 0.7 --seed 1

help:
	@echo "make demo       text from the bundled model, and speed against the machine's limit"
	@echo "make test       all tests but the slow ones    make test-slow  minutes and gigabytes"
	@echo "make lint       ruff, mypy, clang-format       make format     apply them"
	@echo "make bench      fp32 decoding against transformers, medians of interleaved rounds"

# The core and its compiled extension; nothing else is needed to run a model.
$(VENV)/.core: $(SOURCES) constraints.txt
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PIP) install -c constraints.txt setuptools pybind11
	$(PIP) install -c constraints.txt -e . --no-build-isolation --no-deps
	$(PIP) install -c constraints.txt numpy safetensors tokenizers huggingface_hub
	touch $@

# torch by its exact pin, before anything that would pull in another build of it.
$(VENV)/.peers: $(VENV)/.core
	$(PIP) install torch==2.13.0
	$(PIP) install -c constraints.txt transformers
	touch $@

$(VENV)/.dev: $(VENV)/.peers
	$(PIP) install -c constraints.txt -e ".[torch,hf,dev]" --no-build-isolation
	touch $@

demo: $(VENV)/.peers
	@echo; echo '$$ gpt2fast $(DEMO)'; $(VENV)/bin/gpt2fast $(DEMO)
	@echo; $(PY) benchmarks/decode_fp32.py --rounds 3 --tokens 32

test: $(VENV)/.dev lint
	$(PY) -m pytest -m "not slow"

test-slow: $(VENV)/.dev
	$(PY) -m pytest -m slow --timeout 3600

lint: $(VENV)/.dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/clang-format --dry-run --Werror csrc/*/*.cpp csrc/*/*.h tests/csrc/*.cpp tests/csrc/*.h

format: $(VENV)/.dev
	$(VENV)/bin/ruff check --fix . && $(VENV)/bin/ruff format .
	$(VENV)/bin/clang-format -i csrc/*/*.cpp csrc/*/*.h tests/csrc/*.cpp tests/csrc/*.h

bench: $(VENV)/.peers
	$(PY) benchmarks/decode_fp32.py --rounds 7

clean:
	rm -rf $(VENV) build *.egg-info gpt2fast/_C.*.so

.PHONY: help demo test test-slow lint format bench clean
