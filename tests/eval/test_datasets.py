"""Reading captioned images: the four formats, what is refused, what may be left out, and what must not matter."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmsearch.errors import DatasetError
from mmsearch.eval.datasets import Dataset, DatasetOptions, load_dataset, merge_identical_captions, without_images

LENIENT = DatasetOptions(allow_missing=True)


def make_images(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"\xff\xd8\xff")


def write_csv(root: Path, text: str, *, name: str = "pairs.csv") -> Path:
    path = root / name
    path.write_bytes(text.encode())
    return path


def captions_by_image(dataset: Dataset) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {name: [] for name in dataset.image_ids}
    for image, caption in dataset.pairs.tolist():
        found[dataset.image_ids[image]].append(dataset.captions[caption])
    return {name: sorted(texts) for name, texts in found.items()}


def test_csv_captions_keep_commas_quotes_lines_and_alphabets(tmp_path: Path) -> None:
    make_images(tmp_path, "a.jpg", "sub/b.png")
    rows = ['a.jpg,"A dog, ""Rex"", runs"', 'sub/b.png,"two\nlines"', "a.jpg,\u732b\u304c\u5bdd\u308b"]
    text = "\r\n".join(["\ufeffimage,caption", *rows, ""])
    dataset = load_dataset(write_csv(tmp_path, text))
    assert captions_by_image(dataset) == {
        "a.jpg": ['A dog, "Rex", runs', "\u732b\u304c\u5bdd\u308b"],
        "sub/b.png": ["two\nlines"],
    }
    assert dataset.image_path(1) == tmp_path / "sub" / "b.png"


def test_csv_may_have_more_columns_in_any_order(tmp_path: Path) -> None:
    make_images(tmp_path, "a.jpg")
    dataset = load_dataset(write_csv(tmp_path, "n,caption,image\n1,a cat,./a.jpg\n"))
    assert captions_by_image(dataset) == {"a.jpg": ["a cat"]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has the header"),
        ("picture,caption\na.jpg,x\n", r"has the header \['picture', 'caption'\], expected the columns image,caption"),
        ("image,caption\na.jpg,x,y\n", "line 2 has 3 fields, expected 2; quote a caption with a comma"),
        ('image,caption\na.jpg,"two\nlines"\na.jpg\n', "line 4 has 1 fields"),
        ('image,caption\na.jpg,"never closed\na.jpg,x\n', "line 2 is not CSV"),
        ("image,caption\n ,x\n", "line 2 names no image"),
        ("image,caption\n", "nothing is listed"),
    ],
)
def test_csv_that_is_none_is_refused_by_line(tmp_path: Path, text: str, message: str) -> None:
    make_images(tmp_path, "a.jpg")
    with pytest.raises(DatasetError, match=message):
        load_dataset(write_csv(tmp_path, text), LENIENT)


def test_csv_that_is_not_utf8_is_refused_by_line(tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_bytes(b"image,caption\na.jpg,ok\na.jpg,caf\xe9\n")
    with pytest.raises(DatasetError, match=r"pairs.csv line 3 is not UTF-8 .*; save the file as UTF-8"):
        load_dataset(tmp_path / "pairs.csv")


BROKEN = "image,caption\na.jpg,one\ngone.jpg,two\na.jpg,  \na.jpg,one\ngone.jpg,three\nlost.jpg,four\n"


def test_problems_are_refused_with_counts_and_places(tmp_path: Path) -> None:
    make_images(tmp_path, "a.jpg")
    with pytest.raises(DatasetError) as caught:
        load_dataset(write_csv(tmp_path, BROKEN))
    message = str(caught.value)
    assert "2 missing images (line 3: gone.jpg, line 7: lost.jpg)" in message
    assert "1 blank captions (line 4: a.jpg)" in message
    assert "1 doubled rows (line 5: a.jpg)" in message
    assert "--allow-missing" in message


def test_problems_are_left_out_and_counted_on_request(tmp_path: Path) -> None:
    make_images(tmp_path, "a.jpg")
    dataset = load_dataset(write_csv(tmp_path, BROKEN), LENIENT)
    assert captions_by_image(dataset) == {"a.jpg": ["one"]}
    assert dataset.dropped == {"missing images": 2, "blank captions": 1, "doubled rows": 1}
    assert "left out: 2 missing images" in dataset.notes


def test_many_problems_are_counted_after_the_first_few(tmp_path: Path) -> None:
    make_images(tmp_path, "a.jpg")
    rows = "".join(f"gone{i}.jpg,x\n" for i in range(50))
    with pytest.raises(DatasetError, match=r"50 missing images \(line 2: gone0.jpg, .* and 47 more\)"):
        load_dataset(write_csv(tmp_path, "image,caption\n" + rows))


@pytest.mark.case("S41")
@pytest.mark.parametrize("name", ["../out.jpg", "/etc/passwd", "sub/../../out.jpg", "link.jpg"])
def test_images_outside_the_data_root_are_always_refused(tmp_path: Path, name: str) -> None:
    root = tmp_path / "data"
    make_images(root, "a.jpg", "sub/b.jpg")
    make_images(tmp_path, "out.jpg")
    (root / "link.jpg").symlink_to(tmp_path / "out.jpg")
    with pytest.raises(DatasetError, match="lies outside"):
        load_dataset(write_csv(root, f"image,caption\na.jpg,x\n{name},y\n"), LENIENT)


def test_names_no_file_can_have_are_missing_images(tmp_path: Path) -> None:
    make_images(tmp_path, "a.jpg")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    rows = f"image,caption\na.jpg,x\n{'n' * 300}.jpg,y\nnul\0.jpg,z\nloop.jpg,w\n"
    assert load_dataset(write_csv(tmp_path, rows), LENIENT).dropped == {"missing images": 3}


@given(st.permutations(range(12)))
@settings(deadline=None, max_examples=20)
def test_order_of_rows_does_not_matter(tmp_path_factory: pytest.TempPathFactory, order: list[int]) -> None:
    root = tmp_path_factory.mktemp("shuffled")
    make_images(root, "a.jpg", "b.jpg", "c.jpg")
    rows = [f"{'abc'[i % 3]}.jpg,caption {i}\n" for i in range(12)]
    plain = load_dataset(write_csv(root, "image,caption\n" + "".join(rows)))
    shuffled = load_dataset(write_csv(root, "image,caption\n" + "".join(rows[i] for i in order), name="shuffled.csv"))
    assert shuffled.caption_ids == plain.caption_ids
    assert shuffled.captions == plain.captions
    assert shuffled.pairs.tolist() == plain.pairs.tolist()
    first_seen = list(dict.fromkeys(i % 3 for i in order))
    assert shuffled.file_order.tolist() == first_seen


def karpathy(root: Path, *, filepath: str | None = None) -> Path:
    def image(number: int, split: str, sentences: list[str]) -> dict[str, Any]:
        record: dict[str, Any] = {
            "filename": f"{number}.jpg",
            "split": split,
            "imgid": number,
            "sentences": [
                {"raw": raw, "tokens": raw.lower().split(), "sentid": 10 * number + i}
                for i, raw in enumerate(sentences)
            ],
        }
        return record if filepath is None else {**record, "filepath": filepath}

    images = [
        image(1, "train", ["One."]),
        image(2, "restval", ["Two."]),
        image(3, "test", [f"Three, {i}." for i in range(7)]),
        image(4, "test", ["Four."]),
    ]
    make_images(root, *(f"{filepath}/{i}.jpg" if filepath else f"{i}.jpg" for i in range(1, 5)))
    path = root / "dataset.json"
    path.write_text(json.dumps({"images": images, "dataset": "toy"}), encoding="utf-8")
    return path


def test_karpathy_split_uses_the_raw_sentences_and_the_first_five(tmp_path: Path) -> None:
    dataset = load_dataset(karpathy(tmp_path), DatasetOptions(split="test"))
    assert captions_by_image(dataset) == {"3.jpg": [f"Three, {i}." for i in range(5)], "4.jpg": ["Four."]}
    assert any("the first 5 captions of each image: 2 more left out" in note for note in dataset.notes)
    every = load_dataset(tmp_path / "dataset.json", DatasetOptions(split="test", all_captions=True))
    assert len(every.captions) == 8


def test_restval_joins_train_only_on_request(tmp_path: Path) -> None:
    path = karpathy(tmp_path, filepath="val2014")
    assert load_dataset(path, DatasetOptions(split="train")).image_ids == ("val2014/1.jpg",)
    both = load_dataset(path, DatasetOptions(split="train+restval"))
    assert both.image_ids == ("val2014/1.jpg", "val2014/2.jpg")
    assert both.split == "restval+train"


@pytest.mark.parametrize(
    ("split", "message"), [(None, "has the splits restval .1 images., test .2 images"), ("dev", "no split 'dev'")]
)
def test_a_split_must_be_named_and_exist(tmp_path: Path, split: str | None, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        load_dataset(karpathy(tmp_path), DatasetOptions(split=split))


def changed(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    document = json.loads(path.read_text(encoding="utf-8"))
    change(document)
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def test_sentence_numbers_that_restart_with_every_image_are_refused(tmp_path: Path) -> None:
    path = changed(karpathy(tmp_path), lambda file: file["images"][3]["sentences"][0].update(sentid=30))
    with pytest.raises(DatasetError, match="image 4 has 30 as 'sentid', which was given to another before"):
        load_dataset(path, DatasetOptions(split="test"))


def test_image_listed_twice_in_json_counts_once_on_request(tmp_path: Path) -> None:
    path = changed(karpathy(tmp_path), lambda file: file["images"].append(file["images"][3]))
    with pytest.raises(DatasetError, match=r"1 doubled rows \(sentence 40: 4.jpg\)"):
        load_dataset(path, DatasetOptions(split="test"))
    dataset = load_dataset(path, DatasetOptions(split="test", allow_missing=True))
    assert captions_by_image(dataset)["4.jpg"] == ["Four."]
    assert dataset.dropped == {"doubled rows": 1}


def coco(root: Path) -> Path:
    document = {
        "images": [{"id": 7, "file_name": "b.jpg"}, {"id": 5, "file_name": "a.jpg"}, {"id": 9, "file_name": "c.jpg"}],
        "annotations": [
            {"id": 30, "image_id": 5, "caption": "later"},
            {"id": 20, "image_id": 7, "caption": " b \n"},
            {"id": 10, "image_id": 5, "caption": "first"},
        ],
    }
    make_images(root, "val/a.jpg", "val/b.jpg", "val/c.jpg")
    path = root / "captions.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def test_coco_joins_on_image_id_and_keeps_bare_images_as_distractors(tmp_path: Path) -> None:
    dataset = load_dataset(coco(tmp_path), DatasetOptions(images=tmp_path / "val"))
    assert captions_by_image(dataset) == {"a.jpg": ["first", "later"], "b.jpg": ["b"], "c.jpg": []}
    assert dataset.file_order.tolist() == [1, 0, 2]
    assert any("1 images have no captions" in note for note in dataset.notes)
    assert dataset.relevance("image_to_text").counts.tolist() == [2, 1, 0]
    assert dataset.relevance("text_to_image").gallery == 3


def test_coco_keeps_the_first_five_captions_by_annotation_id(tmp_path: Path) -> None:
    path = coco(tmp_path)
    document = json.loads(path.read_text())
    document["annotations"] += [{"id": i, "image_id": 7, "caption": f"number {i}"} for i in (99, 12, 11, 98, 13, 14)]
    path.write_text(json.dumps(document))
    dataset = load_dataset(path, DatasetOptions(images=tmp_path / "val"))
    assert captions_by_image(dataset)["b.jpg"] == ["b", "number 11", "number 12", "number 13", "number 14"]
    assert any("2 more left out" in note for note in dataset.notes)


@pytest.mark.parametrize(
    ("records", "record", "message"),
    [
        ("images", {"id": 7, "file_name": "c.jpg"}, "image 'c.jpg' has 7 as 'id'"),
        ("annotations", {"id": 20, "image_id": 5, "caption": "b"}, "annotation 20 has 20 as 'id'"),
        ("annotations", {"id": 20, "image_id": 7, "caption": "other"}, "annotation 20 has 20 as 'id'"),
    ],
    ids=["image", "caption of another image", "other caption"],
)
def test_coco_number_that_names_two_things_is_refused(
    tmp_path: Path, records: str, record: dict[str, Any], message: str
) -> None:
    path = changed(coco(tmp_path), lambda file: file[records].append(record))
    with pytest.raises(DatasetError, match=f"{message}, which was given to another before"):
        load_dataset(path, DatasetOptions(images=tmp_path / "val"))


def test_coco_rows_given_twice_count_once_on_request(tmp_path: Path) -> None:
    def double(file: dict[str, Any]) -> None:
        file["images"] *= 2
        file["annotations"] *= 2

    plain = load_dataset(coco(tmp_path), DatasetOptions(images=tmp_path / "val"))
    path = changed(coco(tmp_path), double)
    dataset = load_dataset(path, DatasetOptions(images=tmp_path / "val", allow_missing=True))
    assert captions_by_image(dataset) == captions_by_image(plain)
    assert dataset.dropped == {"doubled rows": 6}


def test_coco_captions_of_unlisted_images_are_counted(tmp_path: Path) -> None:
    path = coco(tmp_path)
    document = json.loads(path.read_text())
    document["annotations"].append({"id": 40, "image_id": 123, "caption": "nowhere"})
    path.write_text(json.dumps(document))
    with pytest.raises(DatasetError, match=r"1 captions of unlisted images \(annotation 40: image 123\)"):
        load_dataset(path, DatasetOptions(images=tmp_path / "val"))
    lenient = load_dataset(path, DatasetOptions(images=tmp_path / "val", allow_missing=True))
    assert lenient.dropped == {"captions of unlisted images": 1}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "is a JSON list"),
        ('{"images": []}', "has no list of objects 'images'"),
        ('{"images": [1]}', "has no list of objects 'images'"),
        ('{"images": [{"split": 3}]}', "has 3 as 'split', expected a string"),
        ('{"images": [{"split": "test", "filename": "a.jpg"}]}', "has no list of objects 'sentences'"),
        (
            '{"images": [{"split": "test", "filename": "a.jpg", "sentences": [{"raw": "x"}]}]}',
            "has None as 'sentid', expected an integer",
        ),
        ('{"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"id": "1"}]}', "has '1' as 'id'"),
    ],
)
def test_json_that_is_neither_shape_is_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "d.json"
    path.write_text(content)
    with pytest.raises(DatasetError, match=message):
        load_dataset(path)


def test_lone_surrogates_in_json_do_not_reach_the_tokenizer(tmp_path: Path) -> None:
    path = coco(tmp_path)
    path.write_text(path.read_text().replace("later", "bad \\ud800 half"))
    dataset = load_dataset(path, DatasetOptions(images=tmp_path / "val"))
    assert "bad \ufffd half" in dataset.captions


def test_folder_reads_one_caption_a_line_and_keeps_bare_pictures(tmp_path: Path) -> None:
    make_images(tmp_path, "a.jpg", "sub/b.PNG", "bare.webp", ".hidden/x.jpg")
    (tmp_path / "a.txt").write_text("first\n\n  second  \n", encoding="utf-8")
    (tmp_path / "sub" / "b.txt").write_text("\ufeffthird", encoding="utf-8")
    dataset = load_dataset(tmp_path)
    assert captions_by_image(dataset) == {"a.jpg": ["first", "second"], "bare.webp": [], "sub/b.PNG": ["third"]}
    assert dataset.caption_ids == ("a.txt#00001", "a.txt#00003", "sub/b.txt#00001")


def test_folder_sidecar_of_two_pictures_is_one_caption_of_both(tmp_path: Path) -> None:
    make_images(tmp_path, "a.jpg", "a.png")
    (tmp_path / "a.txt").write_text("shared")
    dataset = load_dataset(tmp_path)
    assert dataset.captions == ("shared",)
    assert dataset.relevance("text_to_image").of(0).tolist() == [0, 1]


def test_folder_problems_are_sidecars_alone_and_blank_ones(tmp_path: Path) -> None:
    make_images(tmp_path, "a.jpg", "b.jpg")
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "b.txt").write_text("\n \n")
    (tmp_path / "alone.txt").write_text("nothing to see")
    with pytest.raises(DatasetError, match=r"1 sidecars without a picture \(alone.txt\), 1 blank captions \(b.txt\)"):
        load_dataset(tmp_path)
    dataset = load_dataset(tmp_path, LENIENT)
    assert captions_by_image(dataset) == {"a.jpg": ["one"], "b.jpg": []}


def test_folder_that_cannot_be_listed_is_not_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_images(tmp_path, "a.jpg", "locked/b.jpg")
    scandir = os.scandir

    def refusing(path: str) -> object:
        if os.fspath(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(DatasetError, match=r"locked: cannot be listed \(Permission denied\)"):
        load_dataset(tmp_path, LENIENT)


def test_folder_leaves_out_hidden_files(tmp_path: Path) -> None:
    make_images(tmp_path, "a.jpg", "._a.jpg", ".trash/b.jpg")
    (tmp_path / "a.txt").write_text("a cat\n")
    (tmp_path / "._a.txt").write_bytes(b"\x00\x05\x16\x07\xff")
    assert captions_by_image(load_dataset(tmp_path)) == {"a.jpg": ["a cat"]}


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_folder_reads_no_sidecar_from_elsewhere(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "photos"
    make_images(folder, "a.jpg")
    (tmp_path / "secret.txt").write_text("not a caption\n")
    if kind == "link":
        (folder / "a.txt").symlink_to(tmp_path / "secret.txt")
    else:
        os.mkfifo(folder / "a.txt")
    with pytest.raises(DatasetError, match=r"a\.txt is no regular file below"):
        load_dataset(folder, LENIENT)


def test_sha256_follows_the_content(tmp_path: Path) -> None:
    make_images(tmp_path, "a.jpg")
    (tmp_path / "a.txt").write_text("one")
    before = load_dataset(tmp_path).sha256
    assert load_dataset(tmp_path).sha256 == before
    (tmp_path / "a.txt").write_text("two")
    assert load_dataset(tmp_path).sha256 != before


@pytest.mark.parametrize("name", ["gone.csv", "data.parquet"])
def test_other_sources_are_refused(tmp_path: Path, name: str) -> None:
    if name == "data.parquet":
        (tmp_path / name).write_bytes(b"PAR1")
    with pytest.raises(DatasetError, match=r"expected .*\.csv"):
        load_dataset(tmp_path / name)


def test_split_of_a_format_without_splits_is_refused(tmp_path: Path) -> None:
    make_images(tmp_path, "a.jpg")
    with pytest.raises(DatasetError, match="has no splits"):
        load_dataset(write_csv(tmp_path, "image,caption\na.jpg,x\n"), DatasetOptions(split="val"))
    with pytest.raises(DatasetError, match="has no splits"):
        load_dataset(coco(tmp_path), DatasetOptions(split="val"))


def test_missing_image_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="is no folder"):
        load_dataset(coco(tmp_path), DatasetOptions(images=tmp_path / "nowhere"))


def test_leaving_out_an_image_takes_its_captions_and_nobody_elses(tmp_path: Path) -> None:
    make_images(tmp_path, "a.jpg", "a.png", "b.jpg", "c.jpg")
    (tmp_path / "a.txt").write_text("shared")
    (tmp_path / "b.txt").write_text("bee\nhive")
    dataset = without_images(load_dataset(tmp_path), np.array([0, 2]), kind="unreadable images")
    assert captions_by_image(dataset) == {"a.png": ["shared"], "c.jpg": []}
    assert dataset.dropped == {"unreadable images": 2}
    assert dataset.file_order.tolist() == [0, 1]


def test_identical_captions_count_for_each_others_images_on_request(tmp_path: Path) -> None:
    make_images(tmp_path, "a.jpg", "b.jpg")
    path = write_csv(tmp_path, "image,caption\na.jpg,same\nb.jpg,same\nb.jpg,other\n")
    plain = load_dataset(path)
    assert plain.relevance("text_to_image").counts.tolist() == [1, 1, 1]
    merged = merge_identical_captions(plain)
    assert sorted(merged.relevance("text_to_image").counts.tolist()) == [1, 2, 2]
    assert merged.relevance("image_to_text").counts.tolist() == [2, 3]
    assert "2 pairs more" in merged.notes[-1]
