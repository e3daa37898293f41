"""Puts a finished run's model into its directory: graphs checked against torch, measured as written, then described.

Files are made in a directory beside their place and moved there at the end, the manifest last: what `--model` opens is
whole, or says that it is not.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from mmsearch.durable import fsync_dir, fsync_file
from mmsearch.hubness import HubnessBank
from mmsearch.model import Model, load_model
from mmsearch.model_manifest import MANIFEST_FILE, ModelManifest
from mmsearch.training.architecture import with_fusion
from mmsearch.training.banks import BANK_FILES, bank_rows, write_bank
from mmsearch.training.captions import CaptionedImages
from mmsearch.training.card import CARD, STARTING_CARD
from mmsearch.training.export import graphs_of, save_compact, save_graphs
from mmsearch.training.onnx_check import check_parity, shipped_recalls
from mmsearch.training.package import ModelFacts, match_facts, write_manifest
from mmsearch.training.train_data import TrainData
from mmsearch.training.train_rerank import chosen
from mmsearch.training.two_towers import TwoTowers
from mmsearch.training.validation import Recalls
from mmsearch.training.word_pieces import WordPieces

TOKENIZER = "tokenizer.json"
MATCH_WEIGHT = 0.02  # of the matching head's logit beside the cosine, where the starting model names none
_LARGEST_BANK = 2000  # rows; a bank is read at each search
_EXACT_COSINE, _COMPACT_COSINE = 0.9999, 0.995
_COMPARED = 8  # captions that graphs and torch are compared on
_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True)
class Words:
    """What is said of the files: the card's text and the manifest's facts, both knowing what was measured."""

    card: str
    facts: ModelFacts


Describe = Callable[[Recalls], Words]


def model_name(directory: Path) -> str:
    """Return a name for the model in `directory`, after it; only letters, digits, dots, dashes and underscores."""
    plain = _NOT_IN_A_NAME.sub("-", directory.resolve().name).strip("-._")
    return plain[:64] or "trained"


def publish(model: TwoTowers, start: ModelManifest, *, out: Path, data: TrainData, describe: Describe) -> Recalls:
    """Return the recalls of the files written into `out`; `describe` says what they are.

    Raises:
        ModelError: a graph does not compute what torch computes.
    """
    staging = out / "training" / "export"
    if staging.exists():
        shutil.rmtree(staging)
    staging.mkdir()
    measured = _write_files(model, start, directory=staging, validation=data.validation)
    words = describe(measured)
    facts = _with_reranking(model, start, staging=staging, data=data, facts=words.facts)
    if model.matcher is not None and facts.itm is None:  # it does not help: without it pictures need no tokens
        (staging / "itm.onnx").unlink()
        _write_files(with_fusion(model, None), start, directory=staging, validation=data.validation)
    (staging / CARD).write_text(words.card, encoding="utf-8")
    (staging / STARTING_CARD).write_bytes(_starting_cards(start))
    write_manifest(staging, facts)
    _move(staging, out)
    return measured


def _write_files(model: TwoTowers, start: ModelManifest, *, directory: Path, validation: CaptionedImages) -> Recalls:
    """Write graphs and tokenizer into `directory`; return the recalls of the files on `validation`."""
    size = (start.preprocess.height, start.preprocess.width)
    tokenizer = Model(start, threads=1).tokenizer
    ids, mask = tokenizer.encode(validation.captions[:_COMPARED])
    pieces = WordPieces(torch.from_numpy(ids), torch.from_numpy(mask.sum(1)), whole=start.pad)

    def check(directory: Path, smallest: float) -> None:
        check_parity(directory, model, size, smallest_cosine=smallest, pieces=pieces)

    with tempfile.TemporaryDirectory() as scratch:
        graphs = graphs_of(model, size, start.max_tokens, whole=start.pad)
        save_graphs(graphs, Path(scratch), exact=True)
        check(Path(scratch), _EXACT_COSINE)
    save_compact(graphs, directory, lambda: check(directory, _COMPACT_COSINE))
    (directory / TOKENIZER).write_bytes(start.read(start.tokenizer_file))
    return shipped_recalls(directory, validation, preprocess=start.preprocess, tokenizer=tokenizer)


def _with_reranking(
    model: TwoTowers, start: ModelManifest, *, staging: Path, data: TrainData, facts: ModelFacts
) -> ModelFacts:
    """Return `facts` with the matching head and the banks that help on validation; their files are in `staging`."""
    usual, fusion = MATCH_WEIGHT if start.itm is None else start.itm.weight, model.config.fusion
    if fusion is None and not start.hubness:
        return facts
    if fusion is not None:
        facts = replace(facts, itm=match_facts(fusion, max_tokens=start.max_tokens, weight=usual))
    write_manifest(staging, facts)
    written = load_model(staging)
    rows = {side: bank_rows(written, side, data.training, rows=_LARGEST_BANK) for side in start.hubness}
    told = {
        direction: replace(each, bank=BANK_FILES[direction], neighbours=min(each.neighbours, len(rows[direction])))
        for direction, each in start.hubness.items()
    }
    banks = {
        direction: HubnessBank(rows[direction], neighbours=each.neighbours, strength=each.strength)
        for direction, each in told.items()
    }
    best = chosen(written, data.validation, banks, usual=usual)
    for direction in best.hubness:
        write_bank(rows[direction], staging / BANK_FILES[direction])
    kept = {direction: told[direction] for direction in best.hubness}
    head = None if facts.itm is None or best.weight == 0 else replace(facts.itm, weight=best.weight)
    return replace(facts, itm=head, hubness=kept)


def _starting_cards(start: ModelManifest) -> bytes:
    """Return the card of the starting model, and below it those of the models that it started from."""
    cards = [start.read(name) for name in (CARD, STARTING_CARD) if name in start.files]
    return b"\n---\n\n".join(cards) or b"The starting model came without a card.\n"


def _move(staging: Path, out: Path) -> None:
    """Put the files in `staging` in the place of an earlier model's in `out`, the manifest last."""
    files = sorted(staging.iterdir(), key=lambda path: (path.name == MANIFEST_FILE, path.name))
    for path in files:
        fsync_file(path)
    (out / MANIFEST_FILE).unlink(missing_ok=True)
    for old in (*out.glob("*.onnx"), *out.glob("*.npy")):
        old.unlink()
    fsync_dir(out)
    for path in files:
        if path.name == MANIFEST_FILE:
            fsync_dir(out)
        path.rename(out / path.name)
    fsync_dir(out)
    staging.rmdir()
