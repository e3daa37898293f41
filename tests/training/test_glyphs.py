"""The drawn symbols: every font but one to learn from, the same files for the same arguments."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch")
pytest.importorskip("matplotlib")

from mmsearch.training.glyphs import FONTS, SIDE, write_glyphs


def _rows(table: Path) -> list[tuple[str, str]]:
    with table.open(newline="", encoding="utf-8") as file:
        return [(row["image"], row["caption"]) for row in csv.DictReader(file)]


def test_each_symbol_is_learned_in_all_fonts_but_one_and_measured_in_that(tmp_path: Path) -> None:
    assert write_glyphs(tmp_path, symbols=3) == (3 * (len(FONTS) - 1), 3)
    learned, measured = _rows(tmp_path / "train.csv"), _rows(tmp_path / "val.csv")
    assert not {name for name, _ in learned} & {name for name, _ in measured}
    assert {caption for _, caption in learned} == {caption for _, caption in measured}
    for name, _ in learned + measured:
        picture = np.asarray(Image.open(tmp_path / name))
        assert picture.shape == (SIDE, SIDE, 3)
        assert picture.std() > 10  # something is drawn


def test_the_same_arguments_write_the_same_files(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        write_glyphs(tmp_path / folder, symbols=2, seed=7)
    for first in (tmp_path / "a").iterdir():
        assert first.read_bytes() == (tmp_path / "b" / first.name).read_bytes()
