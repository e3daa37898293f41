"""What every test may ask for: the tiny model, and a world without the user's own settings."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings
from tiny_model import write_tiny_model

pytest_plugins = ["reliability_plugin"]

# How long an example takes tells of the machine and its other work, not of the code.
settings.register_profile("any-machine", deadline=None)
settings.load_profile("any-machine")


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory for `load_model`: 16 dimensions, 8 x 8 pixels, eight colours. Shared, so only read it."""
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def tiny_itm_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model with an image-text matching head and banks against hubs. Shared, so only read it."""
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny-itm", itm=True)


@pytest.fixture(autouse=True)
def own_world(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test reads or writes the settings and collections of the person who runs it."""
    for name in [name for name in os.environ if name.startswith("MMSEARCH_")]:
        monkeypatch.delenv(name)
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    for name, place in (("XDG_CONFIG_HOME", "config"), ("XDG_DATA_HOME", "data"), ("XDG_CACHE_HOME", "cache")):
        monkeypatch.setenv(name, str(home / place))
