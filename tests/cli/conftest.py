"""What the tests of the command line share."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from running import Cli, Outcome
from small_collection import SmallCollection, write_small_collection

from mmsearch.cli.main import run
from mmsearch.model import load_model


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> SmallCollection:
    """A published collection; read only."""
    return write_small_collection(tmp_path_factory.mktemp("small"), load_model(tiny_model_dir, threads=1))


@pytest.fixture
def at_small(small: SmallCollection, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> SmallCollection:
    """`small`, made the collection and the model of every command that names none."""
    monkeypatch.setenv("MMSEARCH_COLLECTION", str(small.directory))
    monkeypatch.setenv("MMSEARCH_MODEL", str(tiny_model_dir))
    return small


@pytest.fixture
def cli(capfdbinary: pytest.CaptureFixture[bytes]) -> Cli:
    """Runs a command within this process; it has no stdin of its own."""

    def call(*arguments: str | bytes | Path, input: bytes = b"") -> Outcome:
        capfdbinary.readouterr()
        on_term = signal.getsignal(signal.SIGTERM)
        try:
            code = run([os.fsdecode(argument) for argument in arguments])
        finally:
            signal.signal(signal.SIGTERM, on_term)
        out, err = capfdbinary.readouterr()
        return Outcome(code, out, err.decode())

    return call
