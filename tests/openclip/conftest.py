"""Small open_clip models in directories as the hub lays them out, one for each kind of tower."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from openclip_models import CONFIGS, write_openclip

# Threads that wait for each other on a busy machine take many times as long as one.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def openclip_dirs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A directory for each of `CONFIGS`. Shared, so only read them."""
    root = tmp_path_factory.mktemp("openclip")
    return {name: write_openclip(root / name, config) for name, config in CONFIGS.items()}
