"""docs/library.md names the fields of the JSON that the commands print."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image
from running import Cli
from tiny_model import COLOURS

PAGE = Path(__file__).resolve().parents[2] / "docs/library.md"
COMMANDS = {
    "check": ("check",),
    "repair": ("repair",),
    "optimize": ("optimize",),
    "tag": ("tag", "--label", "red", "--label", "blue"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_the_page_names_the_fields_of_each_command(
    command: str, tmp_path: Path, tiny_model_dir: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    (row,) = re.findall(rf"^\| `mmsearch {command} --json` \| (.*) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.new("RGB", (16, 12), COLOURS["red"]).save(photos / "red.png")
    (photos / "empty.png").touch()
    monkeypatch.setenv("MMSEARCH_COLLECTION", str(tmp_path / "collection"))
    monkeypatch.setenv("MMSEARCH_MODEL", str(tiny_model_dir))
    monkeypatch.setenv("MMSEARCH_WORKERS", "1")
    assert cli("index", photos).code == 0
    printed = cli(*COMMANDS[command], "--json").json
    assert {"schema_version", *re.findall("`(.*?)`", row)} == printed.keys()
