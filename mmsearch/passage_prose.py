"""Prose and Markdown -> pieces: paragraphs, the short ones joined, the long ones cut between sentences."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

MAX_TOKENS = 56  # an estimate, kept under the 64 tokens that the bundled model reads
_FEW_TOKENS = 16  # a paragraph below this (a title, a date) says little by itself
_LETTERS_PER_TOKEN = 6  # of a word: common words are one token, long ones are several
_LONGEST_WORD = 120  # characters; what is longer is no word, and is cut anywhere
_SENTENCE = re.compile(r".+?(?:[.!?\u2026][\"'\u201d\u2019)\]]*(?=\s|$)|[\u3002\uff01\uff1f]|$)", re.DOTALL)
_WORD = re.compile(r"\S+")
_IDEOGRAPH = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]")

_HEADING = re.compile(r"\s{0,3}#{1,6}\s+(.*)$")
_RULE = re.compile(r"\s{0,3}([-=*_])(\s*\1)*\s*$")
_FENCE = re.compile(r"\s{0,3}(?:```|~~~)")
_MARGIN = re.compile(r"^\s*(?:>\s?|[-*+]\s+|\d{1,3}[.)]\s+)+")
_LINK = re.compile(r"!?\[([^\]\[]{0,500})\](?:\([^()\s]{0,2000}(?:\s+[\"'][^\"']{0,500}[\"'])?\)|\[[^\]]{0,200}\])")
_EMPHASIS = re.compile(r"(\*{1,3}|_{2,3}|`{1,2}|~~)(?=\S)(.{1,500}?)(?<=\S)\1")


@dataclass(frozen=True, slots=True)
class Piece:
    """Text of about one passage, and where in its file a person finds it ("line 12", "row 7")."""

    text: str
    locator: str


@dataclass(frozen=True, slots=True)
class _Paragraph:
    line: int
    text: str
    section: int = 0


def estimated_tokens(text: str) -> int:
    """Return about how many tokens a subword tokenizer makes of `text`; no tokenizer is loaded for it."""
    return _count(text, text.split())


def _count(text: str, words: Sequence[str]) -> int:
    ideographs = 0 if text.isascii() else len(_IDEOGRAPH.findall(text))
    return ideographs + sum([1 + len(word) // _LETTERS_PER_TOKEN for word in words])


def prose_pieces(text: str) -> Iterator[Piece]:
    """Yield the pieces of plain text, whose paragraphs stand between blank lines."""
    return _pieces(_gather((number, line, 0) for number, line in _lines(text)))


def markdown_pieces(text: str) -> Iterator[Piece]:
    """Yield the pieces of Markdown without its marks. A heading leads the first piece of its section."""
    return _pieces(_gather(_markdown_lines(text)))


def cut(text: str, most: int = MAX_TOKENS) -> Iterator[tuple[int, str]]:
    """Yield (offset, part): `text` in parts of at most `most` estimated tokens, white space normalised.

    Cuts fall between sentences, between words where a sentence is too long, and anywhere in what is no word.
    """
    held: list[str] = []
    start = size = 0
    for offset, unit, tokens in _units(text, most):
        if held and size + tokens > most:
            yield start, " ".join(held)
            held, size = [], 0
        if not held:
            start = offset
        held.append(unit)
        size += tokens
    if held:
        yield start, " ".join(held)


def _units(text: str, most: int) -> Iterator[tuple[int, str, int]]:
    for sentence in _SENTENCE.finditer(text):
        words = sentence[0].split()
        tokens = _count(sentence[0], words)
        if tokens <= most:
            if words:
                lead = len(sentence[0]) - len(sentence[0].lstrip())
                yield sentence.start() + lead, " ".join(words), tokens
            continue
        for word in _WORD.finditer(text, sentence.start(), sentence.end()):
            step = most // 2 if _IDEOGRAPH.search(word[0]) else _LONGEST_WORD
            for at in range(word.start(), word.end(), step):
                part = text[at : min(at + step, word.end())]
                yield at, part, _count(part, (part,))


def _pieces(paragraphs: Iterable[_Paragraph]) -> Iterator[Piece]:
    held: list[_Paragraph] = []
    size = 0
    for paragraph in paragraphs:
        if held and (size >= _FEW_TOKENS or paragraph.section != held[0].section):
            yield from _cut_located(held)
            held, size = [], 0
        held.append(paragraph)
        size += estimated_tokens(paragraph.text)
    if held:
        yield from _cut_located(held)


def _cut_located(paragraphs: list[_Paragraph]) -> Iterator[Piece]:
    # every paragraph keeps its line breaks, and the blank lines between two are put back, so that offsets count lines
    text, line = paragraphs[0].text, paragraphs[0].line
    for before, after in itertools.pairwise(paragraphs):
        text += "\n" * (after.line - before.line - before.text.count("\n")) + after.text
    counted = 0
    for offset, part in cut(text):
        line += text.count("\n", counted, offset)
        counted = offset
        yield Piece(part, f"line {line}")


def _lines(text: str) -> Iterator[tuple[int, str]]:
    at, number = 0, 1
    while at < len(text):  # one line at a time: a list of all would hold the file twice
        end = text.find("\n", at)
        end = len(text) if end < 0 else end
        yield number, text[at:end]
        at, number = end + 1, number + 1


def _gather(lines: Iterable[tuple[int, str, int]]) -> Iterator[_Paragraph]:
    held: list[str] = []
    first = last_section = 0
    for number, line, section in lines:
        if held and (not line.strip() or section != last_section):
            yield _Paragraph(first, "\n".join(held), last_section)
            held = []
        if line.strip():
            if not held:
                first, last_section = number, section
            held.append(line)
    if held:
        yield _Paragraph(first, "\n".join(held), last_section)


def _markdown_lines(text: str) -> Iterator[tuple[int, str, int]]:
    section = 0
    fenced = False
    for number, line in _lines(text):
        heading = None if fenced else _HEADING.match(line)
        if _FENCE.match(line):
            fenced = not fenced
            yield number, "", section
        elif heading is not None:
            section += 1
            yield number, _unmarked(heading[1].rstrip("# \t")), section
            yield number, "", section
        elif fenced:
            yield number, line, section
        else:
            yield number, "" if _RULE.match(line) else _unmarked(_MARGIN.sub("", line)), section


def _unmarked(line: str) -> str:
    return _EMPHASIS.sub(r"\2", _LINK.sub(r"\1", line))
