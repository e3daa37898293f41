"""What a run does: the choices of whoever starts it, those of an earlier run it goes on with, and defaults."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from mmsearch.errors import UsageError
from mmsearch.safe_text import safe_text
from mmsearch.training.batches import BatchConfig
from mmsearch.training.fitting import FitConfig
from mmsearch.training.objectives import Objectives

OBJECTIVES = ("itc", "itm", "mlm", "mim")
EPOCHS = 12
RATE = 3e-4
UNLOCKS = ("none", "image", "text", "both")  # towers that may learn
REMEMBER = 0.65  # measured on drawn symbols: nothing found becomes a quarter, Flickr8k loses less than two points
_STEPS_AN_EPOCH = 8
_MASKED_WEIGHT = 0.2  # of MLM and of MIM beside ITC's 1: they help the matching head, and must not lead
# Peak rates of the towers for each unit of the heads': towers know more already, and forget it sooner.
_IMAGE_SHARE, _TEXT_SHARE = 0.15, 0.1
_CAPTIONS_A_STEP = 2  # of each photo


@dataclass(frozen=True)
class TrainOptions:
    """What the user asked for; None where it was left to us, or to the run that is gone on with."""

    source: str
    out: Path
    start: str | None = None
    validation: str | None = None
    objectives: str | None = None
    epochs: int | None = None
    batch: int | None = None
    seed: int | None = None
    rate: float | None = None
    remember: float | None = None
    unlock: str | None = None
    tower_rate: float | None = None
    micro_batch: int | None = None
    checkpointing: bool = False
    resume: bool = False
    threads: int = 1

    def __post_init__(self) -> None:
        """Refuse what no run can be asked for.

        Raises:
            UsageError: an option has a value that cannot be used.
        """
        _require("--epochs", self.epochs, "a whole number above 0", lambda value: value >= 1)
        _require("--batch", self.batch, "at least 2 photos", lambda value: value >= 2)
        _require("--seed", self.seed, "0 to 4294967295", lambda value: 0 <= value < 1 << 32)
        _require("--lr", self.rate, "a number above 0, such as 3e-4", lambda value: 0 < value < math.inf)
        _require("--remember", self.remember, "0 to 1, but not 1", lambda value: 0 <= value < 1)
        _require("--tower-lr", self.tower_rate, "a number above 0, such as 1e-5", lambda value: 0 < value < math.inf)
        _require("--micro-batch", self.micro_batch, "at least 1 photo", lambda value: value >= 1)
        if self.objectives is not None:
            _named(self.objectives)
        if self.unlock is not None and self.unlock not in UNLOCKS:
            raise UsageError(f"--unlock is '{safe_text(self.unlock)}', expected none, image, text or both")


@dataclass(frozen=True)
class Plan:
    """What a run is: two runs with equal plans do the same, wherever (`origin`) the starting model was found.

    `data` is the digest of photos, captions and their split; `start` is the fingerprint of the starting model; `rate`
    is the peak learning rate of the heads, `tower_rate` that of the towers in `unlock`, None for a share of `rate`;
    `views` counts the views of a photo that are kept; `remember` is the share of the starting weights in the final
    ones. `micro_batch` photos go through the towers at once, None for all; with `checkpointing` these keep little of
    what they compute on the way, and compute it again.
    """

    origin: str
    data: str
    start: str
    objectives: str
    epochs: int
    batch: int
    seed: int
    rate: float
    views: int
    remember: float = REMEMBER
    unlock: str = "both"
    tower_rate: float | None = None
    micro_batch: int | None = None
    checkpointing: bool = False


@dataclass(frozen=True)
class Found:
    """What the data and the starting model decide: how many photos there are to learn from, and so on."""

    origin: str
    data: str
    start: str
    photos: int
    objectives: str  # that are usual for the starting model
    unlock: str
    views: int


def planned(options: TrainOptions, earlier: Plan | None, *, found: Found, say: Callable[[str], None]) -> Plan:
    """Return the plan of the run; `say` is told where it is not what was asked for.

    Raises:
        UsageError: an option is not that of the earlier run, or nothing is left to learn.
    """
    batch = None if options.batch is None else min(options.batch, found.photos)
    if batch != options.batch:
        say(f"--batch {options.batch} is more than there are photos to learn from: each step sees all {batch}")
    usual = earlier or Plan(
        origin=found.origin,
        data=found.data,
        start=found.start,
        objectives=found.objectives,
        epochs=EPOCHS,
        batch=default_batch(found.photos),
        seed=0,
        rate=RATE,
        views=found.views,
        unlock=found.unlock,
    )
    epochs = usual.epochs if options.epochs is None else options.epochs
    plan = Plan(
        origin=found.origin,
        data=found.data,
        start=found.start,
        objectives=usual.objectives if options.objectives is None else _named(options.objectives),
        epochs=epochs,
        batch=usual.batch if batch is None else batch,
        seed=usual.seed if options.seed is None else options.seed,
        rate=usual.rate if options.rate is None else options.rate,
        views=min(usual.views, epochs),  # a photo is seen once an epoch
        remember=usual.remember if options.remember is None else options.remember,
        unlock=usual.unlock if options.unlock is None else options.unlock,
        tower_rate=usual.tower_rate if options.tower_rate is None else options.tower_rate,
        micro_batch=usual.micro_batch if options.micro_batch is None else options.micro_batch,
        checkpointing=usual.checkpointing or options.checkpointing,
    )
    if plan.unlock == "none" and "itm" not in plan.objectives:
        raise UsageError("--unlock none leaves the matching head alone to learn: --objective needs itm")
    if plan.unlock == "none" and plan.tower_rate is not None:
        raise UsageError(
            "--tower-lr is the rate at which towers learn, and --unlock none lets none of them: leave out one of both"
        )
    if earlier is not None:
        require_same(earlier, plan)
    return plan


def check_early(options: TrainOptions, earlier: Plan | None, *, start: str, objectives: str, unlock: str) -> None:
    """Refuse what `planned` would refuse whatever the data, before any of it is read.

    Arguments are what `Found` says of the starting model.

    Raises:
        UsageError: as `planned`.
    """
    any_number = earlier.batch if earlier is not None else BatchConfig.images
    found = Found(
        origin="",
        data="" if earlier is None else earlier.data,
        start=start,
        photos=any_number,
        objectives=objectives,
        unlock=unlock,
        views=1 if earlier is None else earlier.views,
    )
    planned(options, earlier, found=found, say=lambda line: None)


_WORDS = {
    "data": "the photos or captions of DATASET or --val",
    "start": "the model of --from",
    "objectives": "--objective",
    "epochs": "--epochs",
    "batch": "--batch",
    "seed": "--seed",
    "rate": "--lr",
    "remember": "--remember",
    "unlock": "--unlock",
    "tower_rate": "--tower-lr",
    "micro_batch": "--micro-batch",
}


def require_same(earlier: Plan, now: Plan) -> None:
    """Return when a run with the plan `now` goes on with the one of `earlier`.

    Raises:
        UsageError: they differ; names in what.
    """
    before, after = asdict(earlier), asdict(now)
    different = []
    for name, words in _WORDS.items():
        if before[name] != after[name]:
            opaque = name in ("data", "start")
            different.append(f"{words} changed" if opaque else f"{words} was {before[name]}, is {after[name]}")
    if different:
        raise UsageError(
            f"--resume goes on with the same run only, and {', '.join(different)}; give what the run was begun with, or"
            " choose another --out"
        )


def default_batch(photos: int) -> int:
    """Return how many of `photos` a step sees by default: a power of two, 256 at most, for eight steps an epoch."""
    return min(photos, BatchConfig.images, max(8, 1 << int(math.log2(max(1, photos // _STEPS_AN_EPOCH)))))


def objectives(plan: Plan) -> Objectives:
    """Return the weights of the losses of `plan`."""
    asked = plan.objectives.split(",")
    return Objectives(
        itc=Objectives.itc if "itc" in asked else 0.0,
        itm=Objectives.itm if "itm" in asked else 0.0,
        mlm=_MASKED_WEIGHT if "mlm" in asked else 0.0,
        mim=_MASKED_WEIGHT if "mim" in asked else 0.0,
    )


def fit_config(plan: Plan, *, captions: int, fresh: bool) -> FitConfig:
    """Return how the loop is to run `plan` on photos with so many `captions` each.

    With `fresh`, the matching head starts from random weights, and the towers wait for it for an epoch.
    """
    return FitConfig(
        epochs=plan.epochs,
        stop_after=plan.epochs,
        head_rate=plan.rate,
        image_rate=_tower_rate(plan, "image", share=_IMAGE_SHARE),
        text_rate=_tower_rate(plan, "text", share=_TEXT_SHARE),
        warm_epochs=1.0 if fresh else 0.0,
        validate_every=1,
        seed=plan.seed,
        micro_batch=plan.micro_batch,
        objectives=objectives(plan),
        batches=BatchConfig(images=plan.batch, captions_per_image=min(_CAPTIONS_A_STEP, captions)),
    )


def _tower_rate(plan: Plan, side: str, *, share: float) -> float:
    """Return the peak rate of the tower of that `side`, 0 where it is locked."""
    if plan.unlock not in (side, "both"):
        return 0.0
    return share * plan.rate if plan.tower_rate is None else plan.tower_rate


def _named(text: str) -> str:
    """Return the objectives in `text`, each once, in the order of `OBJECTIVES`."""
    asked = [part.strip().lower() for part in text.split(",")]
    wrong = [part for part in asked if part not in OBJECTIVES]
    if wrong:
        raise UsageError(
            f"--objective has '{safe_text(wrong[0])}', expected some of {', '.join(OBJECTIVES)} with commas between"
        )
    return ",".join(name for name in OBJECTIVES if name in asked)


def _require(option: str, value: float | None, expected: str, usable: Callable[[float], bool]) -> None:
    if value is not None and not usable(value):
        raise UsageError(f"{option} is {value:g}, expected {expected}")
