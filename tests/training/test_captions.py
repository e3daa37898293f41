"""Reading a captions file, and the pixels training sees."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmsearch.errors import DatasetError
from mmsearch.training.captions import read_captions, squash


def _table(directory: Path, text: str) -> Path:
    path = directory / "captions.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_captions_are_grouped_by_image_in_order_of_appearance(tmp_path: Path) -> None:
    table = _table(tmp_path, 'image,caption\nb.jpg,One .\na.jpg,"two, three"\nb.jpg,four\n')
    data = read_captions(table)
    assert [path.name for path in data.paths] == ["b.jpg", "a.jpg"]
    assert data.captions == ("One .", "two, three", "four")
    assert [rows.tolist() for rows in data.captions_of()] == [[0, 2], [1]]


def test_captions_that_differ_only_in_case_spaces_or_full_stops_are_one_text(tmp_path: Path) -> None:
    data = read_captions(_table(tmp_path, "image,caption\na,A dog .\nb,a  Dog\nc,a dog runs\n"))
    first, second, third = data.text_ids().tolist()
    assert first == second != third


@pytest.mark.parametrize(
    ("text", "message"), [("a,b\n1,2\n", "expected image,caption"), ("image,caption\n", "no rows")]
)
def test_a_table_that_is_no_captions_table_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        read_captions(_table(tmp_path, text))


def test_squash_ignores_the_aspect_and_keeps_exact_pixels_at_the_right_size() -> None:
    image = Image.fromarray(np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3))
    assert np.array_equal(squash(image, (4, 6)), np.asarray(image).transpose(2, 0, 1))
    assert squash(image, (8, 8)).shape == (3, 8, 8)
