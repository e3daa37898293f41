"""How photos are printed while they are tagged: in pieces, and as far as it came where that ends early."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest
from running import Cli
from small_collection import SmallCollection

from mmsearch.cli import tag_output
from mmsearch.errors import CollectionDamaged
from mmsearch.types import PhotoTags, Tag


def test_many_photos_are_printed_while_they_are_tagged(
    at_small: SmallCollection, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces: list[bytes] = []
    monkeypatch.setattr(tag_output, "print_bytes", pieces.append)
    monkeypatch.setattr(tag_output, "_BYTES_AT_ONCE", 300)

    def photos() -> Iterator[PhotoTags]:
        for number in range(100):
            assert len(pieces) >= number // 10
            yield PhotoTags(f"/photos/{number:04}.jpg" + "x" * 50, ())

    ending = tag_output.print_photos(photos(), tag_output.Table(), started=time.monotonic())
    assert (ending.skipped, ending.interrupted) == ([], False)
    assert max(map(len, pieces)) < 500
    assert b"".join(pieces).count(b"\n") == 100


@pytest.mark.parametrize("form", [[], ["--csv"], ["--json"]])
def test_photos_that_were_done_are_printed_before_an_error(
    at_small: SmallCollection, cli: Cli, monkeypatch: pytest.MonkeyPatch, form: list[str]
) -> None:
    def damaged(*_: object, **__: object) -> Iterator[PhotoTags]:
        yield PhotoTags("/a.jpg", (Tag("red", 0.5, 0.25),))
        raise CollectionDamaged("its strings are gone")

    monkeypatch.setattr("mmsearch.tag_run.run_tag", damaged)
    done = cli("tag", "--label=red", "--label=b", *form)
    assert (done.code, done.err) == (5, "mmsearch: its strings are gone\n")
    if form == ["--json"]:
        assert json.loads(done.out + b"]}")["photos"][0]["path"] == "/a.jpg"
    else:
        assert len(done.lines) == 2
        assert (done.lines[-1].split(",") == ["/a.jpg", "L2EuanBn", "1", "red", "0.500000", "0.250000"]) == bool(form)


@pytest.mark.case("F8")
@pytest.mark.promise("R6")
def test_an_interruption_leaves_complete_json_and_exit_code_130(
    at_small: SmallCollection, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> Iterator[PhotoTags]:
        yield PhotoTags("/a.jpg", ())
        raise KeyboardInterrupt

    monkeypatch.setattr("mmsearch.tag_run.run_tag", interrupted)
    done = cli("tag", "--label=a", "--label=b", "--json")
    assert done.code == 130
    assert done.json["interrupted"] is True
    assert [each["path"] for each in done.json["photos"]] == ["/a.jpg"]
    assert done.err == "mmsearch: interrupted\n"
