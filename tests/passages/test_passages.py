"""Text files cut into passages that fit a text encoder and can be found again by their locators."""

from __future__ import annotations

import codecs
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmsearch.errors import UnreadableFile
from mmsearch.passage_prose import MAX_TOKENS, cut, estimated_tokens
from mmsearch.passages import MAX_TEXT_BYTES, TEXT_EXTENSIONS, read_passages
from mmsearch.types import Reason


def found(data: bytes | str, extension: str = ".txt") -> list[tuple[str, str]]:
    data = data.encode() if isinstance(data, str) else data
    passages = read_passages(data, extension)
    assert [passage.part for passage in passages] == list(range(len(passages)))
    return [(passage.text, passage.locator) for passage in passages]


def reason(data: bytes, extension: str = ".txt") -> Reason:
    with pytest.raises(UnreadableFile) as refusal:
        read_passages(data, extension)
    return refusal.value.reason


LONG = "The harbour lay still in the morning and the boats had not yet gone out to the grey banks of the north."


def test_paragraphs_become_passages_located_by_line() -> None:
    assert found(f"{LONG}\n\n\n{LONG}\nAnd again.\n") == [(LONG, "line 1"), (f"{LONG} And again.", "line 4")]


def test_short_paragraphs_join_what_follows() -> None:
    assert found(f"A Title\n\n1901\n\n{LONG}\n\n{LONG}") == [(f"A Title 1901 {LONG}", "line 1"), (LONG, "line 7")]


def test_long_paragraph_is_cut_between_sentences_and_each_part_has_its_line() -> None:
    parts = found("\n".join([LONG] * 6))
    assert [text for text, _ in parts] == [f"{LONG} {LONG}"] * 3
    assert [locator for _, locator in parts] == ["line 1", "line 3", "line 5"]


def test_endless_sentence_is_cut_between_words() -> None:
    parts = [text for text, _ in found("word " * 200)]
    assert " ".join(parts).split() == ["word"] * 200
    assert all(estimated_tokens(text) <= MAX_TOKENS for text in parts)


def test_ideographs_count_one_by_one() -> None:
    assert estimated_tokens("犬が海辺を走る") == 7 + 2
    parts = [text for text, _ in found("犬が海辺を走る。" * 40)]
    assert "".join(parts).replace(" ", "") == "犬が海辺を走る。" * 40
    assert all(estimated_tokens(text) <= MAX_TOKENS for text in parts)


@given(st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=2000))
@settings(max_examples=150, deadline=None)
def test_cutting_loses_no_word_and_keeps_the_limit(text: str) -> None:
    parts = list(cut(text))
    assert "".join("".join(part for _, part in parts).split()) == "".join(text.split())
    assert all(estimated_tokens(part) <= MAX_TOKENS for _, part in parts)
    assert [offset for offset, _ in parts] == sorted({offset for offset, _ in parts})
    assert all(text[offset:].startswith(part[0]) for offset, part in parts)


def test_every_line_ending_counts_lines_alike() -> None:
    for ending in ("\n", "\r\n", "\r"):
        assert found(ending.join([LONG, "", LONG, ""])) == [(LONG, "line 1"), (LONG, "line 3")]


def test_markdown_headings_open_sections_and_marks_go() -> None:
    text = (
        "# Harbours #\n\nSome **bold** and `code`, a [link](http://a.b 'x') to it, ![a boat](boat.png).\n"
        f"\n## Boats\n* one boat\n2. two boats\n\n---\n> {LONG}\n\n```\n# no heading\n```\n"
    )
    assert found(text, ".md") == [
        ("Harbours Some bold and code, a link to it, a boat.", "line 1"),
        (f"Boats one boat two boats {LONG}", "line 5"),
        ("# no heading", "line 13"),
    ]


def test_plain_text_keeps_marks_that_markdown_loses() -> None:
    assert found("# 5 *stars*")[0][0] == "# 5 *stars*"
    assert found("# 5 *stars*", ".md")[0][0] == "5 stars"


@pytest.mark.parametrize("name", ["caption", "Text", " CAPTION "])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_table_gives_its_caption_column_row_by_row(name: str, delimiter: str) -> None:
    rows = [["image", name], ["a.jpg", f'"A dog{delimiter} running"'], ["b.jpg", ""], ["c.jpg"], ["d.jpg", "A cat"]]
    table = "\n".join(delimiter.join(row) for row in rows)
    assert found(table, ".csv") == [(" ".join(f"A dog{delimiter} running".split()), "row 1"), ("A cat", "row 4")]


def test_caption_comes_before_text_and_quoted_line_breaks_stay_inside_a_row() -> None:
    assert found('text,caption\nx,"first\nsecond"\ny,third', ".csv") == [("first second", "row 1"), ("third", "row 2")]


def test_long_row_becomes_several_passages_of_that_row() -> None:
    parts = found(f'caption\n"{" ".join([LONG] * 4)}"\nshort', ".csv")
    assert [locator for _, locator in parts] == ["row 1", "row 1", "row 2"]


@pytest.mark.parametrize("line", ["sep=;\n", '"sep=;"\r\n', "SEP=;\n"])
def test_line_in_which_excel_names_the_delimiter_is_no_header(line: str) -> None:
    assert found(f"{line}image;caption\na.jpg;A dog, running\n", ".csv") == [("A dog, running", "row 1")]
    assert found("sep=\t\ncaption\timage\nA cat\ta.jpg\n", ".csv") == [("A cat", "row 1")]


def test_row_that_csv_cannot_hold_costs_itself() -> None:
    table = f"caption\nfirst\n{'x' * 200_000}\nthird\n"
    assert found(table, ".csv") == [("first", "row 1"), ("third", "row 3")]


def test_table_without_the_column_names_the_columns_it_has() -> None:
    with pytest.raises(
        UnreadableFile, match=r"columns 'image', 'title', expected one named caption or text"
    ) as refusal:
        read_passages(b"image;title\na;b\n", ".csv")
    assert refusal.value.reason is Reason.UNSUPPORTED_INSIDE


def test_json_lines_give_caption_or_text_and_skip_what_is_neither() -> None:
    lines = ['{"text": "one"}', "", "broken {", '{"id": 4}', "[1]", '{"Caption": "six", "text": "no"}', '{"text": 7}']
    assert found("\n".join(lines), ".jsonl") == [("one", "line 1"), ("six", "line 6")]


def test_json_lines_without_any_text_say_what_is_wrong() -> None:
    assert reason(b'{"id": 1}\n', ".jsonl") is Reason.UNSUPPORTED_INSIDE
    assert reason(b"once upon a time\n", ".jsonl") is Reason.UNIDENTIFIED
    assert reason(b"[" * 100_000, ".jsonl") is Reason.UNIDENTIFIED


def test_lone_surrogate_in_json_becomes_a_question_mark() -> None:
    assert found('{"text": "half \\ud83d a smile"}', ".jsonl") == [("half ? a smile", "line 1")]


@pytest.mark.parametrize(
    ("encoding", "mark"),
    [("utf-8", b""), ("utf-8", codecs.BOM_UTF8), ("utf-16", b""), ("utf-16-be", codecs.BOM_UTF16_BE), ("utf-32", b""),
     ("cp1252", b"")],
)  # fmt: skip
def test_usual_encodings_are_understood(encoding: str, mark: bytes) -> None:
    assert found(mark + "Größe überall: 5 €, “ja”".encode(encoding)) == [("Größe überall: 5 €, “ja”", "line 1")]
    assert found(mark + "Caption,id\nGrün,1".encode(encoding), ".csv") == [("Grün", "row 1")]


def test_one_broken_byte_does_not_turn_utf_8_into_another_encoding() -> None:
    assert found("Größe überall".encode() + b" \xff") == [("Größe überall \ufffd", "line 1")]


def test_what_is_not_text_is_refused() -> None:
    assert reason(bytes(range(256)) * 10) is Reason.UNIDENTIFIED
    assert reason("a utf-16 text without a mark".encode("utf-16-le")) is Reason.UNIDENTIFIED
    assert reason(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\1", ".md") is Reason.UNIDENTIFIED


def test_a_stray_nul_is_a_space() -> None:
    assert found(LONG.encode() + b"\0end") == [(f"{LONG} end", "line 1")]


@pytest.mark.parametrize("extension", sorted(TEXT_EXTENSIONS))
@pytest.mark.parametrize("data", [b"", b" \n\t\n", codecs.BOM_UTF8, codecs.BOM_UTF16_LE])
def test_empty_files_are_empty(extension: str, data: bytes) -> None:
    assert reason(data, extension) is Reason.EMPTY


def test_table_of_blank_captions_is_empty() -> None:
    assert reason(b"caption\n\n \n", ".csv") is Reason.EMPTY


def test_file_over_the_cap_is_too_large() -> None:
    assert reason(b"a" * (MAX_TEXT_BYTES + 1)) is Reason.TOO_LARGE


def test_too_many_passages_are_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmsearch.passages._MAX_PASSAGES", 3)
    assert len(found("caption\n1\n2\n3\n", ".csv")) == 3
    assert reason(b"caption\n1\n2\n3\n4\n", ".csv") is Reason.TOO_LARGE


@pytest.mark.parametrize("extension", sorted(TEXT_EXTENSIONS))
@pytest.mark.parametrize("unit", [b"a", b"[", b"*a", b". ", b'"', b"`", b"#", b"| ", b"\xe7\x8a\xac", b"a\n", b"\n"])
def test_long_monotonous_text_ends_in_time(extension: str, unit: bytes) -> None:
    """Quadratic behaviour would take minutes here."""
    data = unit * (200_000 // len(unit))
    try:
        passages = read_passages(data, extension)
    except UnreadableFile:
        return
    assert all(estimated_tokens(passage.text) <= MAX_TOKENS for passage in passages)


@given(st.binary(max_size=500), st.sampled_from(sorted(TEXT_EXTENSIONS)))
@settings(max_examples=200, deadline=None)
def test_any_bytes_give_passages_or_a_reason(data: bytes, extension: str) -> None:
    try:
        passages = read_passages(data, extension)
    except UnreadableFile as error:
        assert error.detail
        return
    assert passages
    json.dumps([passage.text for passage in passages])
    assert all(passage.text.strip() and passage.text.encode() for passage in passages)


def test_heading_of_a_million_marks_takes_no_time() -> None:
    # a pattern that tries every place for the closing marks would take hours, not be a little slow
    marks = " #" * 500_000
    passages = found(f"#{marks} Title {marks}\n\n## Second ##\n\n{LONG}\n", ".md")
    assert passages[-1] == (f"Second {LONG}", "line 3")
    assert "Title" in " ".join(text for text, _ in passages)
