"""How the suite uses the machine: one thread for each process, and tests side by side (`scripts/test.sh`)."""

import json
import os
from pathlib import Path

import pytest
import torch

from support.short_runs import short_run  # noqa: F401  (a fixture)

# The networks here are small. A second thread gains little, and much is lost when two processes want the same core.
# Processes that tests start inherit it.
torch.set_num_threads(int(os.environ.setdefault("OMP_NUM_THREADS", "1")))

# Files whose tests share what took long to make: one process runs all of them. Other tests go to whoever is free.
TOGETHER = {
    "test_checkpoints", "test_cifar", "test_evaluation", "test_event_training", "test_events", "test_initial_weights",
    "test_jobs", "test_kills", "test_option_effects", "test_processes", "test_recipes", "test_run_options",
    "test_wrong_options",
}  # fmt: skip


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.stem in TOGETHER:
            item.add_marker(pytest.mark.xdist_group(item.path.stem))


def pytest_addoption(parser):
    parser.addoption("--device", default="cpu", help="of tests/train/test_device.py: cpu or cuda")
    parser.addoption("--lines", metavar="FILE", type=Path, help="append a line of JSON for each test")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    lines = item.config.getoption("--lines")
    if lines and (report.when == "call" or report.outcome != "passed"):
        error = {"error": str(report.longrepr)[-2000:]} if report.outcome == "failed" else {}
        with open(lines, "a", encoding="utf-8") as file:
            file.write(json.dumps({"item": f"test {item.name}", "outcome": report.outcome, **error}) + "\n")
            file.flush()
            os.fsync(file.fileno())
    return report
