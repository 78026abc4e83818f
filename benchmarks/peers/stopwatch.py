"""A pytest plugin for the measured runs: how long each test took with its set-up and tear-down, one line a test."""

import os
import time
from pathlib import Path

import pytest

WHERE = Path(os.environ["STOPWATCH"])


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item):
    """Milliseconds of the whole protocol; in the process that runs the test."""
    began = time.perf_counter()
    done = yield
    took = (time.perf_counter() - began) * 1e3
    with WHERE.with_name(f"{WHERE.name}.{os.getpid()}").open("a") as file:
        file.write(f"{took:.3f}\n")
    return done
