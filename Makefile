# Everything sets itself up in .venv: Python 3.10+, make and a C++17 compiler are enough.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check -q
SOURCES := $(wildcard csrc/*/*.cpp csrc/*/*.h) setup.py pyproject.toml

DEMO := generate demo "def read_lines(path):" --max-tokens 80 --temperature 0.7 --seed 1

DEMO_COMPRESS := compress demo build/demo-small --max-loss 1%

help:
	@echo "make demo       text from the bundled model, its compression, and speed against the limit"
	@echo "make test       all tests but the slow ones    make test-slow  minutes and gigabytes"
	@echo "make test-newest  on the newest releases    make test-matrix  on older releases of transformers"
	@echo "make lint       ruff, mypy, clang-format       make format     apply them"
	@echo "make docs       the documentation as a site, in build/site"
	@echo "make bench      the tables of docs/benchmarks.md, every other system installed beside (half an hour)"
	@echo "make bench-quality  what compression costs and brings (needs DATA=folder, hours)"
	@echo "make bench-kernels  each kernel against its limit    make bench-gpu  all of it on an NVIDIA GPU"

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
	$(PIP) install -c constraints.txt transformers -e ".[compress]" --no-build-isolation
	touch $@

$(VENV)/.dev: $(VENV)/.peers
	$(PIP) install -c constraints.txt -e ".[torch,gpu,hf,compress,onnx,dev]" --no-build-isolation
	touch $@

demo: $(VENV)/.peers
	@echo; echo '$$ gpt2fast $(DEMO)'; $(VENV)/bin/gpt2fast $(DEMO)
	rm -rf build/demo-small
	@echo; echo '$$ gpt2fast $(DEMO_COMPRESS)'; $(VENV)/bin/gpt2fast $(DEMO_COMPRESS)
	@echo; $(VENV)/bin/gpt2fast generate build/demo-small "def read_lines(path):" --max-tokens 40 --temperature 0.7 --seed 1
	@echo; $(VENV)/bin/gpt2fast bench --random gpt2 -s gpt2fast:float32,int8,int4 transformers-sdpa:float32 \
		--baseline transformers-sdpa --tokens 32 --rounds 3 --starts 1 --work build

# Whether Triton's kernels are compiled or interpreted is decided once a process, and tests that look at
# a clock run alone: hence four runs.
TIMED := tests/test_light.py tests/engine/test_engine_overhead.py tests/engine/test_beam_search.py tests/cli/test_main.py \
	tests/csrc/test_limits.py
COMPILED := tests/kernels/triton/test_variant.py
INTERPRETED := tests/kernels/triton tests/runners/test_cuda.py tests/hf/test_cuda.py
# Other releases of transformers, each over .venv in a folder of its own; what pip installs there stands
# before what .venv has.
RELEASES := 4.57.6 5.0.0 5.6.2 5.12.1 5.18.0 5.22.2
OLDEST := $(firstword $(RELEASES))
ENVIRONMENTS := build/environments
$(ENVIRONMENTS)/transformers-%/.ready: tests/support/release_environment.py | $(VENV)/.dev
	$(PY) $< $(@D) transformers==$*
	touch $@

test: $(VENV)/.dev $(ENVIRONMENTS)/transformers-$(OLDEST)/.ready lint
	$(PY) -m pytest -m "not slow" $(TIMED)
	$(PY) -m pytest -m "not slow" -n auto $(addprefix --ignore ,$(TIMED) $(COMPILED))
	$(ENVIRONMENTS)/transformers-$(OLDEST)/bin/python -m pytest -m "not slow" -n auto tests/hf
	$(PY) -m pytest -m "not slow" -n auto $(COMPILED)
	OMP_NUM_THREADS=1 TRITON_INTERPRET=1 $(PY) -m pytest -m "not slow" -n auto --ignore $(COMPILED) $(INTERPRETED)
	$(MAKE) test-newest

# The newest release of each project that users install beside this one, whatever the pins say.
test-newest: $(VENV)/.dev
	$(PY) tests/support/newest_releases.py $(ENVIRONMENTS)/newest

test-matrix: $(RELEASES:%=test-transformers-%)
	$(PY) tests/support/newest_releases.py $(ENVIRONMENTS)/newest tests/hf
test-transformers-%: $(ENVIRONMENTS)/transformers-%/.ready
	$(ENVIRONMENTS)/transformers-$*/bin/python -m pytest -m "not slow" -n auto tests/hf
.SECONDARY: $(RELEASES:%=$(ENVIRONMENTS)/transformers-%/.ready)

# lm-evaluation-harness brings sixty packages with it: an environment of its own.
HARNESS := .venv-lm-eval
$(HARNESS)/.ready: $(SOURCES) constraints.txt
	test -x $(HARNESS)/bin/python || $(PYTHON) -m venv $(HARNESS)
	$(HARNESS)/bin/pip install -q torch==2.13.0
	$(HARNESS)/bin/pip install -q -c constraints.txt setuptools pybind11 pytest pytest-timeout hypothesis
	$(HARNESS)/bin/pip install -q -c constraints.txt lm_eval numpy safetensors tokenizers huggingface_hub
	$(HARNESS)/bin/pip install -q -c constraints.txt transformers accelerate
	$(HARNESS)/bin/pip install -q --no-deps --no-build-isolation -e .
	touch $@

# optimum-onnx takes an older transformers than the tests do.
OPTIMUM := .venv-optimum
$(OPTIMUM)/.ready: benchmarks/peers.txt $(SOURCES)
	test -x $(OPTIMUM)/bin/python || $(PYTHON) -m venv $(OPTIMUM)
	$(OPTIMUM)/bin/pip install -q torch==2.13.0 setuptools pybind11 pytest pytest-timeout hypothesis
	grep -v -e llama -e openvino -e ctranslate2 benchmarks/peers.txt > $(OPTIMUM)/requirements.txt
	$(OPTIMUM)/bin/pip install -q --no-deps -r $(OPTIMUM)/requirements.txt
	$(OPTIMUM)/bin/pip install -q --no-deps --no-build-isolation -e .
	touch $@

test-slow: $(VENV)/.dev $(HARNESS)/.ready $(OPTIMUM)/.ready test-matrix
	$(HARNESS)/bin/python -m pytest --rootdir . tests/evaluate/test_lm_eval.py tests/hf/test_lm_eval.py
	$(OPTIMUM)/bin/python -m pytest --rootdir . tests/export/test_optimum.py
	$(PY) -m pytest -m slow --timeout 3600 --ignore $(COMPILED)
	$(MAKE) test-compiled
	OMP_NUM_THREADS=1 TRITON_INTERPRET=1 GPT2FAST_THOROUGH=1 $(PY) -m pytest --timeout 3600 -n auto $(INTERPRETED)

# Every shipped specialization of the Triton kernels, for each architecture: six minutes.
test-compiled: $(VENV)/.dev
	$(PY) -m pytest -m slow --timeout 3600 -n auto $(COMPILED)

# On a machine with an NVIDIA GPU: checks, limits, kernels, models; about nine minutes.
bench-gpu:
	$(PYTHON) benchmarks/gpu_suite.py

lint: $(VENV)/.dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/clang-format --dry-run --Werror csrc/*/*.cpp csrc/*/*.h tests/csrc/*.cpp tests/csrc/*.h docs/onnx/*.cpp

format: $(VENV)/.dev
	$(VENV)/bin/ruff check --fix . && $(VENV)/bin/ruff format .
	$(VENV)/bin/clang-format -i csrc/*/*.cpp csrc/*/*.h tests/csrc/*.cpp tests/csrc/*.h docs/onnx/*.cpp

# The documentation as a site, in build/site; a warning is an error.
DOCS := .venv-docs
$(DOCS)/.ready: docs/requirements.txt
	test -x $(DOCS)/bin/python || $(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/pip install -q -r docs/requirements.txt
	touch $@

docs: $(DOCS)/.ready
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --strict --quiet
	@echo "build/site/index.html"

# The systems that the README compares with, in an environment of their own (benchmarks/peers.txt
# says why); llama.cpp is compiled for this CPU.
PEERS := .venv-bench
$(PEERS)/.ready: benchmarks/peers.txt $(SOURCES)
	test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/pip install -q torch==2.13.0 setuptools pybind11
	CMAKE_ARGS="-DGGML_NATIVE=ON" $(PEERS)/bin/pip install -q --no-deps -r benchmarks/peers.txt
	$(PEERS)/bin/pip install -q --no-deps --no-build-isolation -e .
	touch $@

BENCH := $(PEERS)/bin/gpt2fast bench --work build/bench-models
bench: $(PEERS)/.ready
	sh benchmarks/readme.sh "$(BENCH)" build/bench
	$(PEERS)/bin/python benchmarks/readme_tables.py build/bench

# A larger model for the studies of compression: GPT-2's own vocabulary, a hundred million tokens: five
# minutes on an H100, most of a day on two cores. DATA is a folder with gpt2-tokenizer/, wikitext-2/
# and tinyshakespeare.txt, which the project does not carry.
STUDY := build/study
$(STUDY)/model/training.json: | $(VENV)/.peers
	test -d "$(DATA)" || { echo "give DATA=folder, see benchmarks/quality/study_text.py"; exit 2; }
	rm -rf $(STUDY)/train $(STUDY)/calibration $(STUDY)/held-out
	$(PY) benchmarks/quality/study_text.py $(DATA) $(STUDY)
	$(VENV)/bin/gpt2fast train $(STUDY)/train --held-out-data $(STUDY)/held-out --out $(STUDY)/model \
		--tokenizer $(DATA)/gpt2-tokenizer --n-embd 320 --n-layer 6 --n-head 5 --n-positions 512 \
		--batch-size 32 --steps 6500 --lr 0.002 --warmup 300 --precision bf16 --dtype float16 \
		--eval-every 2000 --save-every 2000 --log-every 100
study-model: $(STUDY)/model/training.json

# What compression costs and brings: quality on both models, then speed; two hours without the training.
OF_STUDY := --model $(STUDY)/model --calibration $(STUDY)/calibration --held-out $(STUDY)/held-out/*.txt
bench-quality: $(STUDY)/model/training.json
	for study in quantize prune recover; do $(PY) benchmarks/quality/$$study.py || exit 1; done
	$(PY) benchmarks/quality/distill.py
	$(PY) benchmarks/quality/quantize.py $(OF_STUDY) --held-out-windows 24
	$(PY) benchmarks/quality/prune.py $(OF_STUDY) --held-out-windows 24 --patterns unstructured --only weights
	$(PY) benchmarks/quality/prune.py $(OF_STUDY) --held-out-windows 24 --only units --keep 0.5
	for speed in artifact prune; do $(PY) benchmarks/quality/$${speed}_speed.py || exit 1; done

# The drop-in beside transformers of the oldest release, of 5.0 and of the pinned one, each in its own environment;
# rows go to benchmarks/results/hf-<release>.json.
bench-hf: $(VENV)/.dev $(ENVIRONMENTS)/transformers-$(OLDEST)/.ready $(ENVIRONMENTS)/transformers-5.0.0/.ready
	for python in $(ENVIRONMENTS)/transformers-$(OLDEST)/bin/python $(ENVIRONMENTS)/transformers-5.0.0/bin/python $(PY); \
		do $$python benchmarks/hf.py --rounds 3 --out benchmarks/results || exit 1; done

bench-kernels: $(VENV)/.peers
	for kernel in matmul attention layer_norm; do $(PY) benchmarks/kernels/$$kernel.py || exit 1; done

clean:
	rm -rf $(VENV) $(PEERS) $(HARNESS) $(OPTIMUM) $(DOCS) build *.egg-info gpt2fast/_C.*.so

.PHONY: help demo test test-newest test-matrix test-slow test-compiled lint format docs bench bench-hf bench-kernels bench-gpu study-model bench-quality clean
