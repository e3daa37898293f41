"""Decoders with known holes are refused before they see a file."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from PIL import Image

from mmsearch.errors import MMSearchError
from mmsearch.image_versions import MINIMUM, require_decoders
from mmsearch.images import load_rgb

pytestmark = pytest.mark.case("S38")
PYPROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"


@pytest.fixture(autouse=True)
def asked_anew() -> Iterator[None]:
    """What is installed is looked up once in the life of a process."""
    require_decoders.cache_clear()
    yield
    require_decoders.cache_clear()


def installed(monkeypatch: pytest.MonkeyPatch, **versions: str) -> None:
    def version(package: str) -> str:
        try:
            return versions[package.replace("-", "_")]
        except KeyError:
            raise metadata.PackageNotFoundError(package) from None

    monkeypatch.setattr(metadata, "version", version)


@pytest.mark.parametrize("version", ["12.2.9", "11.3.0", "9.0", "0", "12.2.0.post1"])
def test_a_pillow_with_known_holes_decodes_nothing(
    version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    installed(monkeypatch, pillow=version)
    with pytest.raises(MMSearchError, match=rf"pillow {version} is installed.*pip install --upgrade 'pillow>=12\.3'"):
        load_rgb(tmp_path / "a.png")


def test_a_pillow_heif_with_known_holes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, pillow="12.3.0", pillow_heif="1.2.1")
    with pytest.raises(MMSearchError, match=r"pillow-heif 1\.2\.1 is installed"):
        require_decoders()


@pytest.mark.parametrize("version", ["12.3", "12.3.0", "12.3.0.dev0", "12.10.0", "13", "100.0"])
def test_a_newer_one_is_used(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, pillow=version)
    require_decoders()


def test_the_minimum_is_what_an_installer_is_told() -> None:
    asked = tomllib.loads(PYPROJECT.read_text())["project"]["dependencies"]
    assert {line.split(">=")[0]: line.split(">=")[1] for line in asked if line.startswith("pillow")} == MINIMUM
