"""Any words on the command line: queries on both ways through the parser, labels, templates."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mmsearch.cli import query_answer
from mmsearch.cli.quick import parse_query
from mmsearch.errors import UsageError
from mmsearch.label_list import MAX_CHARACTERS, distinct_labels, parse_labels
from mmsearch.prompts import checked_templates

pytestmark = pytest.mark.usefixtures("bounded")
FUZZ = settings(settings.get_profile("fuzz"))
# What arrives as an argument: any bytes but NUL, undecodable ones as lone surrogates.
ARGUMENTS = st.one_of(
    st.binary(max_size=30).map(lambda data: os.fsdecode(data.replace(b"\0", b""))),
    st.sampled_from(
        ["query", "-", "--", "-k", "-0", "--json", "--text", "--image", "--under", "--min-similarity", "--to"]
    ),
    st.sampled_from(
        ["images", "nan", "1e9", "-1", "0", "9" * 400, "a.jpg", ".", "/", "~", "x" * 5000, "\u0661", "1_0", "+1"]
    ),
)


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@pytest.mark.case("S40")
@FUZZ
@given(arguments=st.lists(ARGUMENTS, max_size=6))
@example(arguments=["-k", "\u0661"])
@example(arguments=["--min-similarity", "1" * 9 + "." + "0" * 10])
def test_any_arguments_are_understood_at_once_or_left_to_the_parser(arguments: list[str]) -> None:
    asked = parse_query(["query", *arguments])
    assert asked is None or (asked.k >= 1 and -1 <= (asked.min_similarity or 0) <= 1)


@pytest.mark.case("S40", "C84")
@FUZZ
@given(argument=st.one_of(ARGUMENTS, st.text(st.characters(), max_size=20)))
@example(argument="\0.jpg")
@example(argument="a/" * 3000 + "b.jpg")
@example(argument="\ud800.jpg")
@example(argument="")
@example(argument="fifo")
@example(argument="fifo.jpg")
@example(argument="loop.jpg")
@example(argument="folder.jpg")
def test_any_argument_is_a_sentence_an_image_or_a_slip(tmp_path: Path, argument: str) -> None:
    if not (tmp_path / "fifo").exists():
        os.mkfifo(tmp_path / "fifo")
        os.mkfifo(tmp_path / "fifo.jpg")
        (tmp_path / "loop.jpg").symlink_to("loop.jpg")
        (tmp_path / "folder.jpg").mkdir()
    with inside(tmp_path):
        try:
            assert not query_answer._is_image(argument)
        except UsageError as error:
            assert "there is no image file" in str(error)


@pytest.mark.case("S44")
@FUZZ
@given(data=st.binary(max_size=100) | st.text(max_size=60).map(str.encode))
@example(data=b"\xef\xbb\xbf" * 3 + b"cat")
@example(data=("e" + "\u0301" * 400).encode())
@example(data=("\u1100\u1161\u11a8" * 200).encode())
@example(data=("\ufdfa" * 400).encode())
@example(data=b"a\rb\r\nc\x0bd\x0ce\x1cf")
def test_any_bytes_are_labels_or_refused(data: bytes) -> None:
    try:
        labels = distinct_labels(parse_labels(data, source="labels.txt"))
    except UsageError as error:
        assert len(str(error)) < 2_000
        return
    assert labels and all(0 < len(label) <= MAX_CHARACTERS and label.split() for label in labels)
    assert distinct_labels(labels) == labels


@pytest.mark.case("S44")
@FUZZ
@given(labels=st.lists(st.text(st.characters(), max_size=20), max_size=5))
@example(labels=["\ud800"])
@example(labels=["{}", "{0.__class__}", "%s"])
def test_any_labels_are_taken_or_refused(labels: list[str]) -> None:
    try:
        for label in distinct_labels(labels):
            label.encode("utf-8")
    except UsageError:
        pass


@pytest.mark.case("S44")
@FUZZ
@given(templates=st.lists(st.text(st.characters(), max_size=30) | st.just("{}") | st.just("{}{}{"), max_size=4))
@example(templates=["a {0.__class__} {}"])
@example(templates=["\ud800 {}"])
def test_any_templates_are_taken_or_refused(templates: list[str]) -> None:
    with suppress(UsageError):
        assert all("{}" in template for template in checked_templates(templates))
