"""Any bytes as a dataset: CSV, both shapes of JSON, a folder with sidecars. A dataset, or our own error."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import pytest
from fuzz_strategies import DEPTHS, changed, damaged, dumped, nested
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mmsearch.errors import DatasetError
from mmsearch.eval.datasets import Dataset, DatasetOptions, load_dataset

pytestmark = [pytest.mark.case("S41"), pytest.mark.usefixtures("bounded")]
FUZZ = settings(settings.get_profile("fuzz"))
LENIENT = DatasetOptions(allow_missing=True)
MERGED = DatasetOptions(allow_missing=True, all_captions=True, merge_identical_captions=True)

CSV = b'image,caption\na.jpg,"a dog, running"\na.jpg,a cat\nb.jpg,"two\nlines"\n'
KARPATHY: dict[str, Any] = {
    "images": [
        {"filename": "a.jpg", "split": "test", "imgid": 0, "sentences": [{"raw": "a dog", "sentid": 0}]},
        {"filename": "b.jpg", "filepath": ".", "split": "test", "imgid": 1, "sentences": [{"raw": "b", "sentid": 1}]},
    ],
    "dataset": "tiny",
}
COCO: dict[str, Any] = {
    "images": [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}],
    "annotations": [{"id": 1, "image_id": 1, "caption": "a dog"}, {"id": 2, "image_id": 2, "caption": "a cat"}],
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the two images of every dataset are."""
    folder = tmp_path_factory.mktemp("pictures")
    for name in ("a.jpg", "b.jpg"):
        (folder / name).write_bytes(b"")
    return folder


def loads_or_refuses(source: Path) -> None:
    for options in (None, LENIENT, MERGED):
        try:
            dataset = load_dataset(source, options)
        except DatasetError as error:
            str(error).encode("utf-8", "backslashreplace")
            continue
        assert isinstance(dataset, Dataset) and dataset.captions
        for name in dataset.image_ids:
            assert (dataset.root / name).resolve().is_relative_to(dataset.root)
        for caption in dataset.captions:
            caption.encode("utf-8")


@FUZZ
@given(
    data=st.binary(max_size=120)
    | damaged(CSV)
    | st.text(max_size=80).map(lambda text: f"image,caption\n{text}".encode())
)
@example(data=b"image,caption\na.jpg," + b"x" * 200_000)
@example(data=b"image,caption\n../secret.jpg,x\n")
@example(data=b"image,caption\n\0.jpg,x\n")
@example(data=b"image,caption\n" + b"a" * 300 + b".jpg,x\n")
@example(data=b"image,caption,caption\na.jpg,x,y\n")
@example(data=b'image,caption\n"a.jpg,x\n')
@example(data=b"\xff\xfei\0m\0")
@example(data=b"image,caption\n.,x\n")
def test_any_bytes_as_csv(pictures: Path, data: bytes) -> None:
    (pictures / "pairs.csv").write_bytes(data)
    loads_or_refuses(pictures / "pairs.csv")


@FUZZ
@given(document=changed(KARPATHY) | changed(COCO))
@example(document={**KARPATHY, "images": [{**KARPATHY["images"][0], "filename": "\ud800.jpg"}]})
@example(document={**COCO, "images": [{"id": 10**400, "file_name": "\0"}]})
@example(document={**COCO, "images": [{"id": 1, "file_name": "/etc/passwd"}]})
@example(document={**KARPATHY, "images": [{**KARPATHY["images"][0], "split": "\ud800"}]})
def test_json_with_anything_changed(pictures: Path, document: dict[str, Any]) -> None:
    try:
        data = dumped(document)
    except ValueError:  # more digits than Python writes
        return
    (pictures / "captions.json").write_bytes(data)
    loads_or_refuses(pictures / "captions.json")


@FUZZ
@given(data=st.binary(max_size=120) | damaged(dumped(KARPATHY)) | damaged(dumped(COCO)))
@example(data=nested(DEPTHS[1]))
@example(data=nested(DEPTHS[2]))
@example(data=b'{"images": ' + b"9" * 5_000 + b"}")
@example(data=b'{"images": [{"id": Infinity, "file_name": "a.jpg"}], "annotations": [{}]}')
def test_any_bytes_as_json(pictures: Path, data: bytes) -> None:
    (pictures / "captions.json").write_bytes(data)
    loads_or_refuses(pictures / "captions.json")


NAME = st.binary(min_size=1, max_size=20).filter(lambda name: b"/" not in name and b"\0" not in name)


@FUZZ
@given(stem=NAME, sidecar=st.binary(max_size=60), alone=st.binary(max_size=10))
@example(stem=b"\xff", sidecar=b"a dog", alone=b"")
@example(stem=b"a\nb", sidecar=b"\xef\xbb\xbfa dog\r\n\n", alone=b"\0")
@example(stem=b"..", sidecar=b"x", alone=b"x")
def test_any_name_and_any_sidecar_in_a_folder(
    tmp_path_factory: pytest.TempPathFactory, stem: bytes, sidecar: bytes, alone: bytes
) -> None:
    folder = tmp_path_factory.mktemp("folder", numbered=True)
    (folder / os.fsdecode(stem + b".jpg")).write_bytes(b"")
    (folder / os.fsdecode(stem + b".txt")).write_bytes(sidecar)
    (folder / "alone.txt").write_bytes(alone)
    loads_or_refuses(folder)


@FUZZ
@given(split=st.text(st.characters(), max_size=10) | st.sampled_from(["test+test", "+", "test+", "\x1b[2J"]))
def test_any_name_of_a_split(pictures: Path, split: str) -> None:
    (pictures / "split.json").write_bytes(dumped(KARPATHY))
    with contextlib.suppress(DatasetError):
        assert load_dataset(pictures / "split.json", DatasetOptions(split=split)).split == "test"
