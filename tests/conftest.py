"""Options of the suite: the contract tests run against a child of ours, or by URL against any container."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--url` and `--model-root` point the contract suite at a running server with fake models allowed."""
    parser.addoption("--url", help="a running server; without it the suite starts its own")
    parser.addoption("--model-root", help="the folder here that is mounted at /opt/ml/models there")
