"""Tokenizers of open_clip models as one `tokenizer.json` that needs neither open_clip nor transformers to be read."""

from __future__ import annotations

import gzip
import importlib.util
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmsearch.errors import MissingExtra, ModelError
from mmsearch.safe_text import safe_path, safe_text

_START, _END, _WORD_END = "<start_of_text>", "<end_of_text>", "</w>"
_BYTES = 256
_MERGES = 49_152 - _BYTES - 2
# open_clip's own expression ignores case, and texts come in lower case: what is left of that is the long s, U+017F.
_WORDS = r"<[s\x{17f}]tart_of_text>|<end_of_text>|'[s\x{17f}]|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_REBUILDS_ITS_ENDS = ("GemmaTokenizer", "GemmaTokenizerFast", "LlamaTokenizer", "LlamaTokenizerFast")


def vocabulary_file() -> Path:
    """Where the installed open_clip keeps the vocabulary of CLIP. Imports nothing of it.

    Raises:
        MissingExtra: open_clip is not installed.
    """
    found = importlib.util.find_spec("open_clip")
    if found is None or not found.submodule_search_locations:
        raise MissingExtra("CLIP's vocabulary comes with open_clip; install with: pip install 'mmsearch[clip]'")
    return Path(found.submodule_search_locations[0], "bpe_simple_vocab_16e6.txt.gz")


def clip_tokenizer_json(vocabulary_path: Path) -> bytes:
    """CLIP's byte-pair tokenizer as a `tokenizer.json`: the ids that open_clip's SimpleTokenizer gives to clean text.

    Sentences are framed by the marks of start and end and padded with 0. Equal files give equal bytes.

    Raises:
        ModelError: the file cannot be read or is not that vocabulary.
    """
    try:
        lines = gzip.decompress(vocabulary_path.read_bytes()).decode("utf-8").split("\n")
    except (OSError, EOFError, ValueError) as error:
        raise ModelError(f"vocabulary {safe_path(str(vocabulary_path))} cannot be read: {error}") from error
    merges = [tuple(line.split()) for line in lines[1 : _MERGES + 1]]
    if len(merges) != _MERGES or any(len(pair) != 2 for pair in merges):
        raise ModelError(
            f"vocabulary {safe_path(str(vocabulary_path))} is not CLIP's: expected {_MERGES} merges of two"
        )
    letters = _byte_letters()
    pieces = [*letters, *(letter + _WORD_END for letter in letters), *("".join(pair) for pair in merges), _START, _END]
    ids = {piece: number for number, piece in enumerate(pieces)}
    marks = {mark: ids[mark] for mark in (_START, _END)}
    for mark in marks:
        _spell_out(mark, ids, merges)
    return _dumped(_clip_tokenizer(ids, merges, marks))


def hub_tokenizer_json(data: bytes, config: Mapping[str, Any], *, strip_separator: bool, file: str) -> bytes:
    """A hub's `tokenizer.json` with what transformers would add from `config`, its `tokenizer_config.json`: which token
    pads, and the marks at the ends. With `strip_separator` token 0 stands where the separator would.

    Returns `data` itself where nothing is to be added. `file` is what messages call the file.

    Raises:
        ModelError: it is no tokenizer, or names a token that it does not have.
    """
    try:
        table = json.loads(data)
        added = {each["content"]: int(each["id"]) for each in table.get("added_tokens") or []}
        vocabulary = table["model"].get("vocab") or {}
        if not isinstance(vocabulary, dict):
            vocabulary = {piece: number for number, (piece, *_) in enumerate(vocabulary)}
        padding = dict(table.get("padding") or {})
        before = _dumped(table)
    except (ValueError, RecursionError, OverflowError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{file} is not a tokenizer of the package tokenizers: {safe_text(str(error))}") from error

    def number(token: str) -> int:
        if token not in added and token not in vocabulary:
            raise ModelError(f"{file} has no token {safe_text(token)}, which its tokenizer_config.json names")
        found = added[token] if token in added else vocabulary[token]
        if not isinstance(found, int):
            raise ModelError(f"{file} has {safe_text(repr(found))} as the number of its token {safe_text(token)}")
        return found

    pad = _content(config.get("pad_token")) or _content(padding.get("pad_token"))
    if pad is not None:
        table["padding"] = _padding(number(pad), pad)
    if _content(config.get("tokenizer_class")) in _REBUILDS_ITS_ENDS:
        ends = [
            _content(config.get(f"{end}_token")) if config.get(f"add_{end}_token", end == "bos") else None
            for end in ("bos", "eos")
        ]
        table["post_processor"] = _template(ends, {end: number(end) for end in ends if end})
    if strip_separator:
        separator = _content(config.get("sep_token")) or "[SEP]"
        zero = next((token for token, each in {**vocabulary, **added}.items() if each == 0), "[PAD]")
        opening = _content(config.get("cls_token")) or "[CLS]"
        number(separator)
        table["post_processor"] = _template([opening, zero], {opening: number(opening), zero: 0})
    normalised = _dumped(table)
    return data if normalised == before else normalised


def _clip_tokenizer(
    ids: Mapping[str, int], merges: Sequence[Sequence[str]], marks: Mapping[str, int]
) -> dict[str, Any]:
    split = {"type": "Split", "pattern": {"Regex": _WORDS}, "behavior": "Removed", "invert": True}
    as_bytes = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": _padding(0, "!"),
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, as_bytes]},
        "post_processor": _template([_START, _END], marks),
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": _WORD_END,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": dict(ids),
            "merges": [list(pair) for pair in merges],
        },
    }


def _spell_out(mark: str, ids: dict[str, int], merges: list[tuple[str, ...]]) -> None:
    """Lets the text of a mark become the mark, as open_clip reads it, by merging its pieces after all other merges.

    No other word has letters and punctuation in it, so nothing else is merged by them; `ids` of the pieces in between
    lie behind the vocabulary and never come out.
    """
    pieces = _merged(mark, {pair: rank for rank, pair in enumerate(merges)})
    left = pieces[0]
    for right in pieces[1:]:
        merges.append((left, right))
        left += right
        ids[left] = ids[mark] if left == mark + _WORD_END else max(ids.values()) + 1


def _merged(word: str, ranks: Mapping[tuple[str, ...], int]) -> list[str]:
    """The pieces of `word`, ASCII, after every merge that applies."""
    pieces = [*word[:-1], word[-1] + _WORD_END]
    while True:
        pairs = [pair for pair in itertools.pairwise(pieces) if pair in ranks]
        if not pairs:
            return pieces
        best, rest, merged = min(pairs, key=ranks.__getitem__), pieces, []
        while rest:
            width = 2 if tuple(rest[:2]) == best else 1
            merged.append("".join(rest[:width]))
            rest = rest[width:]
        pieces = merged


def _byte_letters() -> list[str]:
    """The character that stands for each byte, in the order of CLIP's vocabulary; printable ones are themselves."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = _BYTES - len(printable)
    return [*map(chr, printable), *(chr(_BYTES + number) for number in range(others))]


def _padding(pad_id: int, pad_token: str) -> dict[str, Any]:
    return {
        "strategy": "BatchLongest",
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": pad_id,
        "pad_type_id": 0,
        "pad_token": pad_token,
    }


def _template(ends: Sequence[str | None], ids: Mapping[str, int]) -> dict[str, Any]:
    """The post-processor that puts the two `ends` around a sentence; None for an end that has no mark."""
    sentence = {"Sequence": {"id": "A", "type_id": 0}}
    first, last = ([{"SpecialToken": {"id": end, "type_id": 0}}] if end else [] for end in ends)
    return {
        "type": "TemplateProcessing",
        "single": [*first, sentence, *last],
        "pair": [*first, sentence, *last, *first, {"Sequence": {"id": "B", "type_id": 1}}, *last],
        "special_tokens": {token: {"id": token, "ids": [ids[token]], "tokens": [token]} for token in ids},
    }


def _content(token: Any) -> str | None:
    """A token as `tokenizer_config.json` writes it: its text, or a table with it."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) and text else None


def _dumped(table: Mapping[str, Any]) -> bytes:
    return json.dumps(table, ensure_ascii=False, separators=(",", ":")).encode()
