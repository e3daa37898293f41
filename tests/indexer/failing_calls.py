"""Making the operating system refuse, for one path, what only a broken drive or another user would be refused."""

from __future__ import annotations

import os

import pytest


def failing(monkeypatch: pytest.MonkeyPatch, function: str, ending: bytes, number: int) -> None:
    """From here on `os.<function>` fails with errno `number` for paths that end in `ending`."""
    real = getattr(os, function)

    def fake(path: str | bytes | os.PathLike[str]) -> object:
        if os.fsencode(path).endswith(ending):
            raise OSError(number, os.strerror(number), path)
        return real(path)

    monkeypatch.setattr(os, function, fake)
