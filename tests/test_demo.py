"""The demo through the real bundled model: which photo must come first for which sentence, and the way back."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from mmsearch import demo
from mmsearch.cli.main import run
from mmsearch.demo import DemoAnswer, DemoResult, Direction, run_demo
from mmsearch.demo_photos import PHOTOS, find_photos
from mmsearch.errors import MissingExtra, UsageError

EXPECTED = {
    "a man taking a picture with a camera": "photographer.png",
    "an astronaut in an orange space suit": "astronaut.png",
    "a bird of prey in flight": "eagle.jpg",
    "geese walking on the grass": "geese.jpg",
    "a red motorcycle": "motorcycle.png",
    "a blue car on rocks": "blue-car.jpg",
    "tents in the forest": "yurts.jpg",
    "empty red chairs": "deck-chairs.jpg",
    "an old cannon": "cannon.jpg",
}
CAPTIONS = {photo.file: photo.captions for photo in PHOTOS}


def installed() -> bool:
    try:
        return bool(find_photos())
    except MissingExtra:
        return False


needs_photos = pytest.mark.skipif(not installed(), reason="the photos of the extra 'demo' are not installed")


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> DemoResult:
    return run_demo(tmp_path_factory.mktemp("demo"))


@pytest.fixture
def photos_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "foolbox" else find_spec(name))


def answers(result: DemoResult, direction: Direction) -> Iterator[DemoAnswer]:
    return (answer for answer in result.answers if answer.direction == direction)


def names(answer: DemoAnswer) -> list[str]:
    return [Path(hit.path).name for hit in answer.hits]


def test_each_photo_has_a_name_and_captions_of_its_own() -> None:
    captions = [caption for photo in PHOTOS for caption in photo.captions]
    assert len(CAPTIONS) == len({(photo.module, photo.source) for photo in PHOTOS}) == len(PHOTOS)
    assert len(set(captions)) == len(captions) == 2 * len(PHOTOS)


@needs_photos
def test_at_least_a_dozen_photos_are_found() -> None:
    found = find_photos()
    assert len(found) >= 12
    for _, path in found:
        with Image.open(path) as image:
            assert min(image.size) >= 300


@needs_photos
def test_finding_photos_imports_no_package_of_theirs() -> None:
    program = "import sys; from mmsearch.demo_photos import find_photos; find_photos(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not {"skimage", "foolbox", "scipy"} & set(done.stdout.split())


@needs_photos
def test_a_sentence_finds_its_photo(result: DemoResult) -> None:
    first = {answer.query: names(answer)[0] for answer in answers(result, "text_to_image")}
    assert first == EXPECTED
    assert len(first) >= 8


@needs_photos
def test_a_photo_finds_its_captions(result: DemoResult) -> None:
    found = list(answers(result, "image_to_text"))
    assert [answer.query for answer in found] == list(demo.PHOTO_QUERIES)
    for answer in found:
        assert answer.hits[0].text in CAPTIONS[answer.query], answer
        assert all(hit.kind == "text" for hit in answer.hits)


@needs_photos
def test_a_photo_finds_others_like_it(result: DemoResult) -> None:
    found = {answer.query: names(answer) for answer in answers(result, "image_to_image")}
    assert found["blue-car.jpg"][0] == "off-road-car.jpg"
    for query, others in found.items():
        assert query not in others
    assert [hit.rank for answer in answers(result, "image_to_image") for hit in answer.hits] == [1, 2, 3] * len(found)


@needs_photos
def test_a_sentence_finds_captions(result: DemoResult) -> None:
    (answer,) = answers(result, "text_to_text")
    assert answer.query == "a dog outdoors"
    assert answer.hits[0].text in CAPTIONS["dalmatian.jpg"] + CAPTIONS["tan-dog.jpg"]


@needs_photos
def test_every_photo_and_every_caption_is_indexed(result: DemoResult) -> None:
    assert result.report.skipped == ()
    assert result.report.items == len(PHOTOS) + 2 * len(PHOTOS)


@needs_photos
def test_a_second_demo_in_the_same_directory_indexes_nothing(result: DemoResult) -> None:
    written = {each.name: each.stat().st_mtime_ns for each in result.photos.iterdir()}
    again = run_demo(result.photos.parent)
    assert {each.name: each.stat().st_mtime_ns for each in result.photos.iterdir()} == written
    assert (again.report.indexed, again.report.unchanged) == (0, result.report.indexed)
    assert again.answers == result.answers


@needs_photos
def test_a_directory_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(UsageError, match="not empty"):
        run_demo(tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == ["letter.txt"]


@needs_photos
def test_json_holds_every_answer(result: DemoResult, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["demo", "--keep", str(result.photos.parent), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["schema_version"] == 1
    assert (printed["photos"], printed["captions"]) == (len(PHOTOS), 2 * len(PHOTOS))
    assert [(each["direction"], each["query"]) for each in printed["answers"]] == [
        (each.direction, each.query) for each in result.answers
    ]
    assert [[hit["id"] for hit in each["hits"]] for each in printed["answers"]] == [
        [hit.id for hit in each.hits] for each in result.answers
    ]
    assert Path(printed["answers"][0]["hits"][0]["path"]).is_file()


@needs_photos
def test_without_keep_the_same_is_printed_and_nothing_stays(
    result: DemoResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["demo", "--keep", str(result.photos.parent)]) == 0
    kept = capsys.readouterr().out
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert run(["demo"]) == 0
    printed = capsys.readouterr()
    assert list(tmp_path.iterdir()) == []
    assert kept.partition("Ask more")[0] == printed.out.partition("The same with")[0]
    for query, photo in EXPECTED.items():
        assert query in printed.out and photo in printed.out
    assert "mmsearch index" in printed.out
    assert f"mmsearch query --collection {result.collection}" in kept
    assert "\x1b" not in printed.out
    assert "56 captions indexed" in printed.err


def test_without_the_extra_the_error_says_how_to_install_it(
    photos_not_installed: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["demo", "--keep", str(tmp_path / "demo")]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "pip install 'mmsearch[demo]'" in printed.err
    assert not (tmp_path / "demo").exists()


@needs_photos
def test_a_package_that_lacks_a_photo_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = PHOTOS[0].__class__("other.png", "skimage", "data/other.png", ("one", "two"))
    monkeypatch.setattr("mmsearch.demo_photos.PHOTOS", (*PHOTOS, missing))
    with pytest.raises(MissingExtra, match=r"scikit-image has no data/other\.png"):
        find_photos()
