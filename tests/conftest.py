"""What every test needs: one thread, a time limit, helpers, no network by accident, no variable of the user's."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
for name in [name for name in os.environ if name.startswith("PLAD_BENCH_")]:
    del os.environ[name]  # an exported option would reach every command that a test runs
sys.path.insert(0, str(Path(__file__).parent))

LONG = ("slow", "storm", "browser", "gpu", "vllm")
LIMIT_S = 1200  # for those; pyproject.toml has the limit of the others


def pytest_xdist_auto_num_workers():
    """As many as there are processors, hyperthreads included: every test computes with one thread."""
    return min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def pytest_xdist_make_scheduler(config, log):
    """Keep the tests of a file in one process, where they share fixtures; of test_docs_commands.py, those of a page."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            file, _, test = nodeid.partition("::")
            page = re.search(r"\[([\w-]+\.md)\b", test)
            return f"{file} {page[1]}" if page else file

    return Scheduling(config, log)


def pytest_addoption(parser):
    parser.addoption("--rounding", type=int, metavar="SEED", help="imitate another processor (tests/rounding.py)")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    if item.config.option.rounding is None:
        return (yield)
    from rounding import Rounding

    with Rounding(item.config.option.rounding):
        return (yield)


def pytest_collection_modifyitems(items):
    """Give tests that take long a longer time limit than the rest have."""
    for item in items:
        if item.get_closest_marker("timeout") is None and any(map(item.get_closest_marker, LONG)):
            item.add_marker(pytest.mark.timeout(LIMIT_S))
