"""Models to start training from, written once for all tests that do."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def starting_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory without a matching head; read only."""
    from tiny_training import write_starting_model

    return write_starting_model(tmp_path_factory.mktemp("starting") / "start")


@pytest.fixture(scope="session")
def matching_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory with a matching head and banks; read only."""
    from tiny_training import worn_model, write_starting_model

    return write_starting_model(tmp_path_factory.mktemp("starting") / "matching", worn_model())
