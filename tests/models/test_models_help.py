"""What `mmsearch models` says of itself is whole, and sizes are said alike everywhere."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from mmsearch.byte_size import size_text
from mmsearch.cli.main import run
from mmsearch.model_catalog import KNOWN
from mmsearch.model_store import not_installed

DOCUMENT = Path(__file__).resolve().parent.parent.parent / "docs" / "models.md"


@pytest.mark.parametrize("width", ["80", "60"])
def test_no_line_of_the_help_is_cut(
    width: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", width)
    monkeypatch.setenv("TERMINAL_WIDTH", width)
    for arguments in (["models", "--help"], ["--help"]):
        assert run(arguments) == 0
        told = capsys.readouterr().out
        assert "models" in told or "pull" in told
        assert "..." not in told.replace("[ARGS]...", "")


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (999_999, "999,999 bytes"),
        (1_000_000, "1 MB"),
        (605_200_000, "605 MB"),
        (999_499_999, "999 MB"),
        (999_500_000, "1.0 GB"),
        (3_512_000_000, "3.5 GB"),
    ],
)
def test_sizes_are_in_powers_of_ten(count: int, text: str) -> None:
    assert size_text(count) == text


def test_every_place_says_the_same_size(models_command: Any) -> None:
    page, document = models_command("list").out, DOCUMENT.read_text(encoding="utf-8")
    assert "1 GB is 1,000,000,000 bytes" in page and "1 GB is 1,000,000,000 bytes" in document
    for known in KNOWN:
        size = size_text(known.approximate_bytes)
        assert re.search(rf"{re.escape(known.name)} +~{re.escape(size)} ", page)
        assert f"about {size}," in str(not_installed(known.name))
        if known.short:
            assert f"| `{known.short}` | `{known.name}` | {size} |" in document
            assert f"about {size}" in models_command("info", known.short).out


def test_the_document_names_the_way_to_another_model() -> None:
    document = DOCUMENT.read_text(encoding="utf-8")
    for needed in ("mmsearch index --model base", "--keep-old", "mmsearch index --model mini"):
        assert needed in document
