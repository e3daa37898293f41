from __future__ import annotations

import itertools
import os
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmsearch.errors import UsageError
from mmsearch.label_list import MAX_CHARACTERS, MAX_LABELS, distinct_labels, parse_labels, read_labels


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_a_file_has_one_label_a_line_with_comments_and_blank_lines_between(tmp_path: Path) -> None:
    data = b"\xef\xbb\xbfdog\r\n\n  # of water\n \t \nice cream  \nC# code\n\xc3\xa9clair"
    assert read_labels(write(tmp_path / "labels.txt", data)) == ["dog", "ice cream", "C# code", "éclair"]


def test_lines_end_with_any_newline_and_with_nothing_else() -> None:
    data = "ice\u2028cream\x0cbar\rcake\r\npie\ntart".encode()
    assert parse_labels(data, source="x") == ["ice cream bar", "cake", "pie", "tart"]


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", r"labels\.txt: holds no labels: expected one a line$"),
        (b"# dog\n\n", r"labels\.txt: holds no labels"),
        (b"dog\n\xff\xd8\xff\xe0\n", r"labels\.txt, line 2: is not UTF-8 \(byte 1\): expected labels, one a line$"),
        (b"dog\ncat\n" + b"ha " * 300, r"labels\.txt, line 3: the label 'ha ha .*\.\.\.' has 899 characters, expected"),
    ],
)
def test_a_file_that_is_no_list_of_labels_costs_one_clear_line(tmp_path: Path, data: bytes, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint) as caught:
        read_labels(write(tmp_path / "labels.txt", data))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_file_that_cannot_be_opened_is_neither_waited_for_nor_a_traceback(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, complaint in (
        (tmp_path / "nowhere", "No such file"),
        (tmp_path / "pipe", "not a regular file"),
        (tmp_path, "not a regular file"),
        (Path("a\0b"), "null"),
    ):
        with pytest.raises(UsageError, match=rf"labels in .* cannot be read: .*{complaint}"):
            read_labels(path)


def test_labels_that_differ_in_case_and_spaces_alone_count_once(caplog: pytest.LogCaptureFixture) -> None:
    labels = ["Dog", "hot  dog", "dog", "\thot dog\n", "cat"]
    assert distinct_labels(labels) == ("Dog", "hot dog", "cat")
    (record,) = caplog.records
    assert record.getMessage() == "2 labels come again and are left out (first: 'dog', as numbers 1 and 3)"


def test_one_label_that_comes_again_is_named(caplog: pytest.LogCaptureFixture) -> None:
    assert distinct_labels(["a\x1b[2J", "b", "b", "c"]) == ("a\x1b[2J", "b", "c")
    assert [each.getMessage() for each in caplog.records] == [
        "a label comes again and is left out ('b', as numbers 2 and 3)"
    ]


def test_two_ways_to_write_the_same_letters_are_one_label(caplog: pytest.LogCaptureFixture) -> None:
    # Small letters take other forms than their capitals: iota with two marks has one of its own, Iota has none.
    assert distinct_labels(["cafe\u0301", "caf\u00e9", "CAFE\u0301", "\u0390", "\u03aa\u0301"]) == (
        "caf\u00e9",
        "\u0390",
    )
    assert "3 labels come again and are left out" in caplog.text
    assert parse_labels("cafe\u0301".encode(), source="x") == ["caf\u00e9"]


def test_characters_are_counted_before_they_are_joined_which_takes_long_for_very_many() -> None:
    with pytest.raises(UsageError, match=f"has {MAX_CHARACTERS + 2} characters"):
        distinct_labels(["e\u0301" * (MAX_CHARACTERS // 2 + 1)])
    # What joining makes longer: a composition that Unicode excludes.
    with pytest.raises(UsageError, match=f"has {2 * MAX_CHARACTERS:,} characters"):
        distinct_labels(["\u0958" * MAX_CHARACTERS])


def test_characters_that_join_others_stay_in_a_label() -> None:
    family = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
    assert distinct_labels([family, "\u200bdog"]) == (family, "\u200bdog")


def test_labels_without_end_are_refused() -> None:
    complaint = r"there are more than 100,000 labels: expected at most so many"
    assert len(distinct_labels(map(str, range(MAX_LABELS)))) == MAX_LABELS
    with pytest.raises(UsageError, match=complaint):
        distinct_labels(map(str, range(MAX_LABELS + 1)))
    with pytest.raises(UsageError, match=complaint):
        distinct_labels(itertools.repeat("dog", MAX_LABELS + 1))
    assert len(parse_labels(b"#\na\n" * MAX_LABELS, source="x")) == MAX_LABELS
    with pytest.raises(UsageError, match=r"x, line 100001: " + complaint):
        parse_labels(b"a\n" * (MAX_LABELS + 1), source="x")


def folded(label: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", label).casefold())


@given(
    st.lists(
        st.text(alphabet=st.characters(codec="utf-8", exclude_categories=["Zs", "Cc", "Cf", "Zl", "Zp"]), min_size=1)
    )
)
def test_distinct_labels_of_distinct_labels_are_the_same(labels: list[str]) -> None:
    if labels:
        once = distinct_labels(labels)
        assert distinct_labels(once) == once
        assert {folded(label) for label in once} == {folded(label) for label in labels}
        assert len({folded(label) for label in once}) == len(once)


@pytest.mark.parametrize(
    ("labels", "complaint"),
    [
        ([], "there are no labels to choose from"),
        (["dog", " \t"], r"label 2: the label ' \\\\t' has no words"),
        (["dog", ""], "label 2: the label '' has no words"),
        (["dog", "\u200b"], r"label 2: the label '.*' has no words"),
        (["\ufeff \u2060\u00ad"], r"label 1: the label '.*' has no words"),
        (["x" * (MAX_CHARACTERS + 1)], f"label 1: .* has 501 characters, expected at most {MAX_CHARACTERS}"),
        (["dog", 3], "label 2 is int: expected str"),
        ("dog", "labels is str: expected a list of str"),
        (None, "labels is NoneType: expected a list of str"),
    ],
)
def test_labels_that_cannot_be_used_are_named(labels: list[str], complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        distinct_labels(labels)


def test_an_undecodable_byte_of_an_argument_becomes_a_replacement() -> None:
    assert distinct_labels([os.fsdecode(b"caf\xff")]) == ("caf\ufffd",)
