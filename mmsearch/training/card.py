"""The model card of a model that `mmsearch train` made: what it is from, what it learned, what it measured."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mmsearch.safe_text import safe_text
from mmsearch.training.history import History
from mmsearch.training.plan import Plan
from mmsearch.training.train_data import TrainData
from mmsearch.training.validation import KS, Recalls

CARD, STARTING_CARD = "MODEL_CARD.md", "STARTING_MODEL_CARD.md"


@dataclass(frozen=True)
class CardFacts:
    """What the card says besides the plan, the data and the history.

    `start` is the starting model's name and version, `start_license` its terms; `shipped` are the recalls of the files
    as written, `device` what was computed on.
    """

    name: str
    start: str
    start_license: str
    shipped: Recalls
    device: str


def license_sentence(start: str, start_license: str, data: str) -> str:
    """Return under which terms the trained weights stand, as far as anyone can say without seeing the data."""
    return (
        f"tuned from {safe_text(start)} ({safe_text(start_license)}) on {safe_text(data)}: the terms of that data apply"
        " to these weights too"
    )


def card(facts: CardFacts, plan: Plan, *, data: TrainData, history: History) -> str:
    """Return the card in Markdown."""
    before = history.epochs[0].recalls
    described = (
        ("starting model", f"{safe_text(facts.start)}, fingerprint {plan.start}"),
        ("learned from", f"{safe_text(data.name)}: {_counts(len(data.training.paths))}"),
        ("measured on", f"{safe_text(data.validation_name)}: {_counts(len(data.validation.paths))}"),
        ("left out", f"{len(data.skipped):,} pictures that could not be read"),
        ("objectives", plan.objectives.replace(",", ", ")),
        ("epochs", f"{plan.epochs}, kept: the weights after epoch {history.kept.number}"),
        ("photos a step", f"{plan.batch:,}"),
        ("views of a photo", f"{plan.views}"),
        ("towers that learned", plan.unlock),
        ("peak learning rate", f"{plan.rate:g} of the heads; the towers {_tower_rate(plan)}"),
        ("share of the starting weights", f"{plan.remember:g}"),
        ("seed", f"{plan.seed}"),
        ("computed on", facts.device),
    )
    lines = [
        f"# {safe_text(facts.name)}",
        "",
        "A dual encoder for searching photos by sentence and sentences by photo, made by `mmsearch train`.",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {_cell(value)} |" for name, value in described),
        "",
        "## Terms",
        f"The weights are {license_sentence(facts.start, facts.start_license, data.name)}. No photo and no caption is"
        f" part of these files. What the starting model is made from stands in {STARTING_CARD}.",
        "",
        "## What it measured",
        f"Recall in %, plain cosine, on {safe_text(data.validation_name)}. The best epoch was chosen on these"
        " same photos, so expect a little less on others.",
        "",
        *_table(("before training", before), ("these files", facts.shipped)),
        "",
        "| epoch | loss | mean recall |",
        "|---|---|---|",
        *(f"| {each.number} | {_loss(each.losses)} | {_percent(each.recalls.mean)} |" for each in history.epochs),
        "",
        "## Limits",
        "What the starting model did not know and the data does not show is found by luck. What the data does not show"
        " may be found worse than before: compare with `mmsearch eval --compare` on photos that matter to you.",
        "",
    ]
    return "\n".join(lines)


def _tower_rate(plan: Plan) -> str:
    return "in proportion" if plan.tower_rate is None else f"{plan.tower_rate:g}"


def _counts(photos: int) -> str:
    return f"{photos:,} photos"


def _loss(losses: object) -> str:
    if not isinstance(losses, dict) or not losses:
        return "-"
    return ", ".join(f"{name} {value:.3f}" for name, value in losses.items())


def _table(*rows: tuple[str, Recalls]) -> Iterable[str]:
    ks = " / ".join(str(k) for k in KS)
    yield f"| | text to image, R@{ks} | image to text, R@{ks} | mean of six |"
    yield "|---|---|---|---|"
    for name, measured in rows:
        sides = (" / ".join(map(_percent, side)) for side in (measured.text_to_image, measured.image_to_text))
        yield f"| {name} | {' | '.join(sides)} | {_percent(measured.mean)} |"


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _cell(text: str) -> str:
    return text.replace("|", r"\|")
