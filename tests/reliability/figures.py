"""Figures that tests found, told on the terminal while pytest runs."""

from __future__ import annotations

import pytest


def tell(config: pytest.Config, line: str) -> None:
    """Shows `line`, whatever is captured."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    capture = config.pluginmanager.get_plugin("capturemanager")
    if reporter is not None and capture is not None:
        with capture.global_and_fixture_disabled():
            reporter.ensure_newline()
            reporter.write_line(line)
