# Needs Python 3.11+ with pip and venv; everything else is installed below .venv/.
PYTHON ?= python3

.PHONY: demo test bench signals autobahn
demo:  ## what it does, on a real local server, beside raw asyncio
	@$(PYTHON) scripts/check.py demo
test:  ## every check that CI runs
	@$(PYTHON) scripts/check.py test
bench:  ## ratios against raw asyncio and the peers
	@$(PYTHON) scripts/check.py bench
signals:  ## real signals to real processes, 20 times, on cores that are busy
	@$(PYTHON) -m scripts.signals
autobahn:  ## the Autobahn test suite; needs Python 2.7 (CASES='12.* 13.*' for compression)
	@$(PYTHON) -m scripts.autobahn $(foreach case,$(CASES),'$(case)')
