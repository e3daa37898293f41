"""`mmsearch train` as a library call: look at the data, prepare it, learn, keep the best epoch, write the model.

A run may be ended at any moment. What it needs to go on is in one checkpoint after each epoch, every few minutes, and
when Ctrl-C asks for it; going on from there gives what the run would have given.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mmsearch.indexer.interrupt import StopWaiting, interruptible
from mmsearch.progress import Progress
from mmsearch.training.architecture import with_fusion
from mmsearch.training.batches import Dataset
from mmsearch.training.card import CardFacts, card, license_sentence
from mmsearch.training.checkpoint import load_weights
from mmsearch.training.fitting import fit
from mmsearch.training.follow import Follow, Tell, TrainingStopped
from mmsearch.training.history import History
from mmsearch.training.package import ModelFacts
from mmsearch.training.plan import Found, Plan, TrainOptions, check_early, planned
from mmsearch.training.prepare import Cache, Room, affordable_views, prepared
from mmsearch.training.run_directory import RunDirectory
from mmsearch.training.start import Start
from mmsearch.training.starting import starting
from mmsearch.training.train_data import TrainData, load_train_data
from mmsearch.training.train_export import Words, model_name, publish
from mmsearch.training.two_towers import TwoTowers
from mmsearch.training.validation import Recalls
from mmsearch.training.weight_average import blend
from mmsearch.training.word_pieces import WordPieces

START = "mini"
VERSION = "1"


@dataclass(frozen=True)
class TrainReport:
    """What a finished run came to: recalls on the validation photos `before`, and `after` of the files as written."""

    out: Path
    name: str
    plan: Plan
    data: TrainData
    best_epoch: int
    before: Recalls
    after: Recalls
    device: str
    seconds: float


@dataclass(frozen=True)
class _Ready:
    """Everything that learning needs. With `fresh`, the matching head of `model` starts from random weights."""

    plan: Plan
    data: TrainData
    start: Start
    model: TwoTowers
    fresh: bool
    sets: tuple[Dataset, Dataset]


def train(options: TrainOptions, tell: Tell) -> TrainReport:
    """Train as `options` say and write the model into `options.out`; Ctrl-C and SIGTERM stop it in good order.

    Raises:
        UsageError: an option cannot be used, or the directory is not one to write to.
        DatasetError: the data cannot be read as a dataset, or is too little.
        ModelError: training cannot start from that model, or what was written is not what was learned.
        CollectionBusy: another process trains into that directory.
        TrainingStopped: it was asked to stop.
        MMSearchError: the disk is full.
    """
    started = time.monotonic()
    torch.set_num_threads(options.threads)
    run = RunDirectory(options.out)
    earlier = run.earlier(resume=options.resume)
    with interruptible() as interrupt, run.held():
        try:
            with interrupt.waiting():
                ready = _prepare(options, run, earlier=earlier, tell=tell)
        except StopWaiting:
            raise TrainingStopped("stopped before the first step; the same command begins again") from None
        device = _to_device(ready.model)
        follow = Follow(run, ready.plan, ready.sets[1], interrupt=interrupt, tell=tell)
        captions = len(ready.data.training.captions) // len(ready.data.training.paths)
        config = ready.start.fit_config(ready.plan, captions=captions, fresh=ready.fresh)
        fit(ready.model, ready.sets, config, watcher=follow)
        try:
            with interrupt.waiting():
                name, after = _write(run, ready, history=follow.history, device=device, tell=tell)
        except StopWaiting:
            raise TrainingStopped(
                "stopped before the model was written; the same command with --resume goes on"
            ) from None
    return TrainReport(
        out=run.path,
        name=name,
        plan=ready.plan,
        data=ready.data,
        best_epoch=follow.history.kept.number,
        before=follow.history.epochs[0].recalls,
        after=after,
        device=device,
        seconds=time.monotonic() - started,
    )


def _prepare(options: TrainOptions, run: RunDirectory, *, earlier: Plan | None, tell: Tell) -> _Ready:
    """Return what learning needs; the run directory is begun, unless an earlier run in it is gone on with."""
    start = starting(options.start or (earlier.origin if earlier else START))
    model = start.load()
    start.check(options, model)
    fingerprint, objectives = start.manifest.fingerprint, start.usual_objectives(model)
    check_early(options, earlier, start=fingerprint, objectives=objectives, unlock=start.usual_unlock)
    data = load_train_data(options.source, options.validation, progress=tell.progress)
    for note in data.notes:
        tell.say(note)
    eyes = start.eyes(model, options.threads)
    found = Found(
        origin=start.origin,
        data=data.digest,
        start=fingerprint,
        photos=len(data.training.paths),
        objectives=objectives,
        unlock=start.usual_unlock,
        views=earlier.views if earlier else affordable_views(Room.of(data, eyes), run.path, model),
    )
    plan = planned(options, earlier, found=found, say=tell.say)
    tell.say(f"{found.photos:,} photos to learn from, {len(data.validation.paths):,} to measure on")
    if earlier is None:
        with run.writing():
            run.begin(plan)

    def read(captions: Sequence[str]) -> tuple[WordPieces, Tensor | None]:
        pieces = start.pieces(captions)
        return pieces, start.sentences(model, pieces)

    with run.writing():
        sets = prepared(data, read, cache=Cache(run.cache, eyes, plan.seed), views=plan.views, progress=tell.progress)
    torch.manual_seed(plan.seed)
    needed, has = plan.objectives != "itc", model.config.fusion is not None
    learner = model if needed == has else with_fusion(model, start.matching_head(model) if needed else None)
    start.prepare(learner, plan)
    return _Ready(plan, data, start, learner, needed and not has, sets)


def _to_device(model: TwoTowers) -> str:
    """Move `model` to the fastest device there is; return what to call it."""
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if not torch.cuda.is_available():
        return "CPU"
    model.to("cuda")
    return torch.cuda.get_device_name()


def _write(run: RunDirectory, ready: _Ready, *, history: History, device: str, tell: Tell) -> tuple[str, Recalls]:
    """Write the weights of the best epoch as a model; return its name and its recalls."""
    if tell.progress is not None:
        tell.progress(Progress("export", 0, 1))
    plan, start, validation = ready.plan, ready.start.manifest, ready.data.validation
    image_fields, text_fields = ready.start.manifest_fields()
    load_weights(run.best(history.kept.number), ready.model)
    model = ready.model.cpu()
    blend(model, ready.start.load(), plan.remember)
    ready.start.finish(model)
    if "itm" not in plan.objectives and model.config.fusion is not None:
        model = with_fusion(model, None)  # a matching head that nobody taught to match would spoil the order
    name = model_name(run.path)

    def describe(measured: Recalls) -> Words:
        written = CardFacts(name, f"{start.name} {start.version}", start.license, measured, device)
        facts = ModelFacts(
            name=name,
            version=VERSION,
            dim=model.config.dim,
            image_size=ready.start.size,
            max_tokens=start.max_tokens,
            license=license_sentence(written.start, written.start_license, ready.data.name),
            dataset=ready.data.validation_name,
            images=len(validation.paths),
            captions=len(validation.captions),
            recalls=measured,
            image=image_fields,
            text=text_fields,
            logit_scale=ready.start.logit_scale(model),
        )
        return Words(card(written, plan, data=ready.data, history=history), facts)

    with run.writing():
        measured = publish(model, start, out=run.path, data=ready.data, describe=describe)
        run.finish(plan)
    if tell.progress is not None:
        tell.progress(Progress("export", 1, 1))
    return name, measured
