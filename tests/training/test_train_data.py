"""Any captioned set becomes something to train on, and what is wrong with it is said before anything is learned."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmsearch.errors import DatasetError
from mmsearch.progress import Progress
from mmsearch.training.train_data import FEWEST_TRAINED, FEWEST_VALIDATED, load_train_data
from mmsearch.types import Reason


def write_photos(folder: Path, count: int, *, captions: int = 2, first: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rows = ["image,caption"]
    for number in range(first, first + count):
        pixels = np.random.default_rng(number).integers(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:03}.png")
        rows += [f"{number:03}.png,caption {caption} of {number}" for caption in range(captions)]
    table = folder / "pairs.csv"
    table.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return table


def test_a_tenth_is_held_out_whatever_the_order_of_the_rows(tmp_path: Path) -> None:
    table = write_photos(tmp_path, 40)
    data = load_train_data(str(table), None)
    assert (len(data.training.paths), len(data.validation.paths)) == (36, 4)
    assert not set(data.training.paths) & set(data.validation.paths)
    header, *rows = table.read_text(encoding="utf-8").splitlines()
    table.write_text("\n".join([header, *reversed(rows)]) + "\n", encoding="utf-8")
    again = load_train_data(str(table), None)
    assert again.validation.paths == data.validation.paths
    assert again.digest == data.digest


def test_photos_that_are_one_file_stay_on_one_side(tmp_path: Path) -> None:
    table = write_photos(tmp_path, 30)
    held_out = load_train_data(str(table), None).validation.paths[0]
    copies = [f"copy{number}.png" for number in range(5)]
    for name in copies:
        (tmp_path / name).write_bytes(held_out.read_bytes())
    with table.open("a", encoding="utf-8") as file:
        file.writelines(f"{name},a copy\n" for name in copies)
    data = load_train_data(str(table), None)
    content = {path.read_bytes() for path in data.training.paths}
    assert not content & {path.read_bytes() for path in data.validation.paths}


def test_every_photo_gets_equally_many_captions_to_learn_from(tmp_path: Path) -> None:
    table = write_photos(tmp_path, 12, captions=1)
    with table.open("a", encoding="utf-8") as file:
        file.writelines(f"000.png,another {number}\n" for number in range(9))
    data = load_train_data(str(table), str(write_photos(tmp_path / "val", 4, first=50)))
    assert set(Counter(data.training.image_of.tolist()).values()) == {5}
    owned = data.training.captions_of()
    texts = [{data.training.captions[row] for row in rows} for rows in owned]
    assert sorted(map(len, texts)) == [1] * 11 + [5]
    assert Counter(data.validation.image_of.tolist()) == {0: 2, 1: 2, 2: 2, 3: 2}


def test_unreadable_pictures_are_skipped_named_and_counted(tmp_path: Path) -> None:
    table = write_photos(tmp_path, 20)
    for number in (3, 4, 5, 6):
        (tmp_path / f"{number:03}.png").write_bytes(b"no picture at all")
    (tmp_path / "007.png").write_bytes(b"")
    data = load_train_data(str(table), None)
    assert {Path(each.path).name: each.reason for each in data.skipped} == {
        **{f"{number:03}.png": Reason.UNIDENTIFIED for number in (3, 4, 5, 6)},
        "007.png": Reason.EMPTY,
    }
    (note,) = [note for note in data.notes if "cannot be read" in note]
    assert "skipped 5 pictures" in note
    assert "003.png" in note and "and 2 more" in note
    assert len(data.training.paths) + len(data.validation.paths) == 15


def test_blank_captions_and_missing_pictures_are_left_out_and_counted(tmp_path: Path) -> None:
    table = write_photos(tmp_path, 12)
    with table.open("a", encoding="utf-8") as file:
        file.write("000.png,  \nnowhere.png,gone\n")
    data = load_train_data(str(table), None)
    assert any("1 blank captions" in note for note in data.notes)
    assert any("1 missing images" in note for note in data.notes)


def test_one_photo_is_too_little_and_the_message_says_what_would_do(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"has 1 readable photos with captions, expected at least 10 \(8 to learn"):
        load_train_data(str(write_photos(tmp_path, 1)), None)


@pytest.mark.parametrize(("photos", "measured"), [(FEWEST_TRAINED - 1, 4), (FEWEST_TRAINED, FEWEST_VALIDATED - 1)])
def test_too_few_photos_on_either_side_are_refused(tmp_path: Path, photos: int, measured: int) -> None:
    training, validation = write_photos(tmp_path / "a", photos), write_photos(tmp_path / "b", measured, first=90)
    with pytest.raises(DatasetError, match="expected at least"):
        load_train_data(str(training), str(validation))


def test_a_dataset_without_a_caption_is_refused(tmp_path: Path) -> None:
    table = write_photos(tmp_path, 3, captions=0)
    table.write_text("image,caption\n000.png,\n001.png,\n", encoding="utf-8")
    with pytest.raises(DatasetError, match="2 blank captions"):
        load_train_data(str(table), None)


def test_copies_of_one_photo_are_no_dataset(tmp_path: Path) -> None:
    table = write_photos(tmp_path, 12)
    for number in range(1, 12):
        (tmp_path / f"{number:03}.png").write_bytes((tmp_path / "000.png").read_bytes())
    with pytest.raises(DatasetError, match="copies of a few"):
        load_train_data(str(table), None)


def test_photos_in_both_datasets_are_said(tmp_path: Path) -> None:
    table = write_photos(tmp_path / "a", 12)
    data = load_train_data(str(table), str(write_photos(tmp_path / "b", 4, first=10)))
    assert any("2 photos are in both datasets" in note for note in data.notes)


def test_the_digest_changes_with_a_pixel_a_caption_and_the_split(tmp_path: Path) -> None:
    table = write_photos(tmp_path, 12)
    digests = {load_train_data(str(table), None).digest}
    table.write_text(table.read_text(encoding="utf-8").replace("caption 0 of 3", "another"), encoding="utf-8")
    digests.add(load_train_data(str(table), None).digest)
    Image.new("RGB", (9, 9)).save(tmp_path / "005.png")
    digests.add(load_train_data(str(table), None).digest)
    digests.add(load_train_data(str(table), str(write_photos(tmp_path / "val", 3, first=50))).digest)
    assert len(digests) == 4


def test_progress_counts_every_picture_of_both_datasets(tmp_path: Path) -> None:
    seen: list[Progress] = []
    load_train_data(
        str(write_photos(tmp_path / "a", 9)), str(write_photos(tmp_path / "b", 3, first=9)), progress=seen.append
    )
    assert [(each.phase, each.done, each.total) for each in seen] == [("check", n, 12) for n in range(1, 13)]
