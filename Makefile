# make demo: the whole way on generated scenes.  make test: all checks.  Both set up what they need in .venv.
PYTHON ?= python3
PY := .venv/bin/python
DEMO := models/demo

.PHONY: setup demo test check clean

setup: .venv/installed

.venv/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "make needs Python 3.10 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check -e '.[train,export,cpu,dev]'
	@mkdir -p .typing && ln -sfn .. .typing/retinanet_edge
	@touch $@

demo: setup
	$(PY) runtime/scenes.py --output data/scenes
	$(PY) training/train.py --data data/scenes --model $(DEMO) --replace --weights none $(DEMO_NETWORK) $(DEMO_TRAINING)
	$(PY) runtime/evaluate.py --model $(DEMO) --engine fp32 || true
	$(PY) export/export_onnx.py --model $(DEMO)
	$(PY) export/build_engine.py --int8 --model $(DEMO)
	$(PY) runtime/stream.py --camera demo --model $(DEMO) --video $(DEMO)/report/demo.mp4 --jsonl $(DEMO)/report/demo.jsonl --no-window
	$(PY) runtime/report.py --model $(DEMO) --video $(DEMO)/report/demo.mp4 --jsonl $(DEMO)/report/demo.jsonl

test: check
	$(PY) -m pytest

check: setup
	.venv/bin/ruff check .
	.venv/bin/mypy -p retinanet_edge.runtime -p retinanet_edge.training -p retinanet_edge.export

clean:
	rm -rf .venv .typing models data build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
