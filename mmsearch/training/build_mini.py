"""Builds the bundled model: `python -m mmsearch.training.build_mini --data DIR --out DIR [--work DIR]`.

DIR holds train.csv, val.csv and their images. Starting weights come from installed packages; nothing is downloaded.
With the same seed, data and versions the result is the same up to the order of float additions.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import tempfile
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

from mmsearch.errors import MMSearchError
from mmsearch.model import load_model
from mmsearch.model_facts import Direction, HubnessFacts
from mmsearch.text import Tokenizer
from mmsearch.training.banks import BANK_FILES, bank_rows, write_bank
from mmsearch.training.batches import Dataset, as_input
from mmsearch.training.captions import read_captions
from mmsearch.training.class_knowledge import (
    NAMES_PACKAGE,
    PROMPTS,
    Knowledge,
    KnowledgeConfig,
    centred_rows,
    imagenet_class_names,
)
from mmsearch.training.dual_encoder import DualConfig, DualEncoder
from mmsearch.training.export import write_graphs
from mmsearch.training.features import Views, cached_early_maps, early_session, photo_view
from mmsearch.training.fitting import FitConfig, Lines, fit
from mmsearch.training.onnx_check import check_parity, shipped_recalls
from mmsearch.training.package import ModelFacts, match_facts, write_manifest
from mmsearch.training.pooling import mean_pool
from mmsearch.training.starting_weights import TEXT_PACKAGE, image_package, load_image_tower, load_text_tower
from mmsearch.training.towers import LITE_CONFIGS, EfficientNetLite, MiniLM, TextTowerConfig
from mmsearch.training.validation import Recalls
from mmsearch.training.views import ViewConfig
from mmsearch.training.word_pieces import (
    MAX_TOKENS,
    WordPieces,
    load_tokenizer,
    neutral_tokenizer_json,
    word_pieces,
)
from mmsearch.types import Preprocess

logger = logging.getLogger("mmsearch.training.build_mini")

LITE = "lite2"
IMAGE_SIZE = (256, 256)
VIEWS = 10  # the photo, its mirror image and eight random views
NAME, VERSION = "mini", "0.2"
WEIGHTS = "model.safetensors"
# Chosen on val: how much a match logit counts beside the cosine, and what is taken off against hubs.
MATCH_WEIGHT = 0.05
BANK_ROWS: dict[Direction, int] = {"text_to_image": 4000, "image_to_text": 2000}
HUBNESS: dict[Direction, HubnessFacts] = {
    direction: HubnessFacts(bank=file, neighbours=16, strength=0.75) for direction, file in BANK_FILES.items()
}
LICENSE = "Apache-2.0 starting weights, tuned on Flickr8k photos given for non-commercial research; see MODEL_CARD.md"


@dataclass(frozen=True)
class BuildConfig:
    """Where the data is, where results go, and how long to train."""

    data: Path
    out: Path
    work: Path
    threads: int
    fit: FitConfig


@torch.no_grad()
def sentence_embeddings(tower: MiniLM, pieces: WordPieces, batch: int = 250) -> torch.Tensor:
    """Return float32 (T, D) mean-pooled, L2-normalised embeddings of `pieces` by the starting text tower."""
    parts = []
    for start in range(0, len(pieces.ids), batch):
        ids, mask = pieces.batch(torch.arange(start, min(start + batch, len(pieces.ids))))
        with torch.autocast("cpu", torch.bfloat16):
            states = tower(ids, mask).float()
        parts.append(functional.normalize(mean_pool(states, mask.bool()), dim=-1))
    return torch.cat(parts)


def load_split(config: BuildConfig, tower: EfficientNetLite, text_tower: MiniLM, *, split: str, views: int) -> Dataset:
    """Return the split named "train" or "val" with its early maps, cached in the work directory."""
    captions = read_captions(config.data / f"{split}.csv")
    session = early_session(tower, IMAGE_SIZE, config.threads)
    maps: list[Views] = []
    for number in range(views):
        cache = config.work / f"{LITE}-{IMAGE_SIZE[0]}-{split}-{number}.npy"
        view = photo_view(number, config.fit.seed, ViewConfig())
        maps.append(cached_early_maps(cache, session, captions.paths, IMAGE_SIZE, view))
        logger.info("%s view %d of %d: %d early maps", split, number + 1, views, len(maps[-1]))
    pieces = word_pieces(load_tokenizer(), captions.captions)
    return Dataset(maps, pieces, captions, sentence_embeddings(text_tower, pieces))


@torch.no_grad()
def class_knowledge(tower: EfficientNetLite, classifier: tuple[torch.Tensor, torch.Tensor], photos: Views) -> Knowledge:
    """Return what `classifier` (weight (1000, 1280), bias (1000,)) on top of `tower` says of `photos`."""
    weight, bias = classifier
    logits = []
    for start in range(0, len(photos), 250):
        with torch.autocast("cpu", torch.bfloat16):
            tokens = tower.late(as_input(photos[start : start + 250]))
        logits.append(tokens.float().mean(1) @ weight.t() + bias)
    rows, norms = centred_rows(weight)
    prompts = [prompt.format(name) for prompt in PROMPTS for name in imagenet_class_names()]
    pieces = word_pieces(load_tokenizer(), prompts)
    return Knowledge(torch.cat(logits), rows, norms, pieces, KnowledgeConfig())


def train(config: BuildConfig) -> DualEncoder:
    """Return the trained model."""
    torch.manual_seed(config.fit.seed)
    image_tower, *classifier = load_image_tower(LITE)
    text_tower = load_text_tower(MAX_TOKENS)
    for package in (image_package(LITE), TEXT_PACKAGE, NAMES_PACKAGE):
        logger.info("starting from: %s %s", package, version(package))
    training = load_split(config, image_tower, text_tower, split="train", views=VIEWS)
    validation = load_split(config, image_tower, text_tower, split="val", views=1)
    knowledge = class_knowledge(image_tower, (classifier[0], classifier[1]), training.views[0])
    model = DualEncoder(image_tower, text_tower, DualConfig())
    model.image_tower.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return fit(model, (training, validation), config.fit, watcher=Lines(logger.info), knowledge=knowledge)


def load_weights(path: Path) -> DualEncoder:
    """Return the model whose weights an earlier run has saved at `path`."""
    model = DualEncoder(
        EfficientNetLite(LITE_CONFIGS[LITE]), MiniLM(TextTowerConfig(max_tokens=MAX_TOKENS)), DualConfig()
    )
    model.load_state_dict(load_file(path))
    return model


def write_files(model: DualEncoder, directory: Path, *, exact: bool) -> float:
    """Write the graphs and the tokenizer into `directory`; return the smallest cosine against torch."""
    write_graphs(model, directory, IMAGE_SIZE, MAX_TOKENS, exact=exact)
    (directory / "tokenizer.json").write_text(neutral_tokenizer_json(), encoding="utf-8")
    return check_parity(directory, model, IMAGE_SIZE, smallest_cosine=0.9999 if exact else 0.995)


def publish(model: DualEncoder, config: BuildConfig) -> Recalls:
    """Write the model, measure what was written, then its manifest; return the measured recalls."""
    out = config.out
    training, validation = (read_captions(config.data / f"{split}.csv") for split in ("train", "val"))
    with tempfile.TemporaryDirectory() as scratch:
        worst = write_files(model, Path(scratch), exact=True)
        logger.info("float32 graphs agree with torch: smallest cosine %.6f", worst)
    out.mkdir(parents=True, exist_ok=True)
    worst = write_files(model, out, exact=False)
    logger.info("compact graphs agree with torch: smallest cosine %.6f", worst)
    facts = ModelFacts(
        name=NAME,
        version=VERSION,
        dim=model.config.dim,
        image_size=IMAGE_SIZE,
        max_tokens=MAX_TOKENS,
        license=LICENSE,
        dataset="flickr8k-val",
        images=len(validation.paths),
        captions=len(validation.captions),
        recalls=shipped_recalls(
            out,
            validation,
            preprocess=Preprocess(*IMAGE_SIZE),
            tokenizer=Tokenizer((out / "tokenizer.json").read_bytes(), max_tokens=MAX_TOKENS),
        ),
    )
    if model.config.fusion is not None:
        facts = replace(facts, itm=match_facts(model.config.fusion, max_tokens=MAX_TOKENS, weight=MATCH_WEIGHT))
    write_manifest(out, facts)
    written = load_model(out.resolve())
    for direction, bank in HUBNESS.items():
        write_bank(bank_rows(written, direction, training, rows=BANK_ROWS[direction]), out / bank.bank)
    write_manifest(out, replace(facts, hubness=HUBNESS))
    return facts.recalls


def main(arguments: list[str] | None = None) -> int:
    """Build the model as the command line says; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m mmsearch.training.build_mini", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="directory with train.csv, val.csv and their images")
    parser.add_argument("--out", type=Path, required=True, help="directory to write the model into")
    parser.add_argument("--work", type=Path, default=Path("mini-work"), help="directory for caches (about 4 GB)")
    parser.add_argument("--epochs", type=int, default=FitConfig.epochs, help="epochs the schedule spans")
    parser.add_argument("--stop-after", type=int, default=FitConfig.stop_after, help="epochs to run of the schedule")
    parser.add_argument("--seed", type=int, default=FitConfig.seed)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--weights", type=Path, help=f"publish this {WEIGHTS} of an earlier run instead of training")
    parser.add_argument("--card", type=Path, help="MODEL_CARD.md to ship; default: the one already in --out")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("mmsearch").setLevel(logging.INFO)
    torch.set_num_threads(options.threads)
    fit_config = FitConfig(epochs=options.epochs, stop_after=options.stop_after, seed=options.seed)
    config = BuildConfig(options.data, options.out, options.work, options.threads, fit_config)
    try:
        config.work.mkdir(parents=True, exist_ok=True)
        model = train(config) if options.weights is None else load_weights(options.weights)
        save_file({name: value.contiguous() for name, value in model.state_dict().items()}, config.work / WEIGHTS)
        if options.card is not None:
            config.out.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(options.card, config.out / "MODEL_CARD.md")
        measured = publish(model, config)
    except MMSearchError as error:
        logger.error("%s", error)
        return 1
    logger.info("shipped model on val: %s", measured)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
