"""What every storage test has: a disk that is not waited for. The tests that are about syncing watch the calls."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True)
def unsynced_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """fsync that returns at once: durability is not what a test can see, and waiting for it takes most of the time."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
