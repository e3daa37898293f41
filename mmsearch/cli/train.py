"""`mmsearch train`: teach a model more, with photos and captions of one's own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmsearch.cli.options import DebugOption, JsonOption
from mmsearch.cli.output import note, path_fields, print_json, print_lines
from mmsearch.safe_text import safe_path, safe_text

if TYPE_CHECKING:
    from mmsearch.training.train_run import TrainReport
    from mmsearch.training.validation import Recalls


def train(
    dataset: Annotated[
        str,
        typer.Argument(
            metavar="DATASET",
            help="A CSV with the columns image,caption; a JSON file in Karpathy's or COCO's shape; or a folder where"
            " x.txt beside x.jpg holds its captions.",
        ),
    ],
    out: Annotated[str, typer.Option("--out", metavar="DIR", help="Where the model is written; --model DIR opens it.")],
    start: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="NAME|DIR",
            help="The model to start from: bundled, made by training, or an open_clip model, installed or in a"
            " directory. [default: mini]",
            show_default=False,
        ),
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option(
            "--objective",
            metavar="A,B,...",
            help="What is learned: itc (what belongs together), itm (matching, for reranking), mlm, mim (masked words"
            " and parts of the photo). [default: itc,itm, or itc for a model that does not match]",
            show_default=False,
        ),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option("--epochs", help="Times every photo is seen. [default: 12]", show_default=False)
    ] = None,
    val: Annotated[
        str | None,
        typer.Option("--val", metavar="DATASET", help="What to measure on. [default: a tenth of the photos, held out]"),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out that was stopped.")] = False,
    batch: Annotated[
        int | None, typer.Option("--batch", help="Photos a step. [default: by their number, at most 256]")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Of everything random. [default: 0]")] = None,
    lr: Annotated[float | None, typer.Option("--lr", help="Peak learning rate of the heads. [default: 3e-4]")] = None,
    remember: Annotated[
        float | None,
        typer.Option(
            "--remember",
            metavar="SHARE",
            help="Of the starting weights in the final ones: more forgets less and learns less. [default: 0.65]",
        ),
    ] = None,
    unlock: Annotated[
        str | None,
        typer.Option(
            "--unlock",
            metavar="none|image|text|both",
            help="Towers that learn beside the matching head. [default: text for an open_clip model, both else]",
            show_default=False,
        ),
    ] = None,
    tower_lr: Annotated[
        float | None,
        typer.Option("--tower-lr", help="Peak learning rate of the towers. [default: about an eighth of --lr]"),
    ] = None,
    micro_batch: Annotated[
        int | None,
        typer.Option(
            "--micro-batch",
            help="Photos in memory at once: less memory, more time, and every photo of a step is still compared with"
            " every caption of it. [default: all]",
        ),
    ] = None,
    grad_checkpointing: Annotated[
        bool,
        typer.Option("--grad-checkpointing", help="Compute again instead of keeping: less memory, more time."),
    ] = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Teach a model more with your own photos and captions.

    Needs the extra: pip install 'mmsearch[train]'. Ctrl-C saves and stops; --resume goes on from there. Originals are
    only ever read.
    """
    from mmsearch.cli.progress import progress_bar
    from mmsearch.settings import load_settings
    from mmsearch.training.extra import require_train_extra

    require_train_extra()
    from mmsearch.training.follow import Tell
    from mmsearch.training.plan import TrainOptions
    from mmsearch.training.train_run import train as run

    options = TrainOptions(
        source=dataset,
        out=Path(out),
        start=start,
        validation=val,
        objectives=objective,
        epochs=epochs,
        batch=batch,
        seed=seed,
        rate=lr,
        remember=remember,
        unlock=unlock,
        tower_rate=tower_lr,
        micro_batch=micro_batch,
        checkpointing=grad_checkpointing,
        resume=resume,
        threads=load_settings().thread_count,
    )
    with progress_bar() as progress:
        report = run(options, Tell(note, progress))
    if as_json:
        print_json(_as_json(report))
    else:
        print_lines(_summary(report))


def _as_json(report: TrainReport) -> dict[str, Any]:
    plan, data = report.plan, report.data
    return {
        "model": report.name,
        "out": path_fields(str(report.out)),
        "images": len(data.training.paths),
        "validation_images": len(data.validation.paths),
        "skipped": [{**path_fields(each.path), "reason": each.reason.value} for each in data.skipped],
        "objectives": plan.objectives.split(","),
        "epochs": plan.epochs,
        "best_epoch": report.best_epoch,
        "batch": plan.batch,
        "seed": plan.seed,
        "lr": plan.rate,
        "remember": plan.remember,
        "unlock": plan.unlock,
        "tower_lr": plan.tower_rate,
        "micro_batch": plan.micro_batch,
        "before": _recalls(report.before),
        "after": _recalls(report.after),
        "device": report.device,
        "seconds": round(report.seconds, 1),
    }


def _recalls(recalls: Recalls) -> dict[str, Any]:
    return {**recalls.as_manifest(), "mean_recall": recalls.mean}


def _summary(report: TrainReport) -> Iterator[str]:
    out = str(report.out)
    where = safe_path(out if os.sep in out else os.path.join(os.curdir, out))  # a bare name would be a bundled model's
    epochs = f"{report.plan.epochs} epoch{'' if report.plan.epochs == 1 else 's'}"
    yield (
        f"{safe_text(report.name)}: {len(report.data.training.paths):,} photos, {epochs}"
        f" (kept: {report.best_epoch}) in {report.seconds:,.0f} s on {report.device}"
    )
    yield ""
    yield f"{'':<18}{'text to image':<22}image to text"
    yield f"{'':<18}{'R@1   R@5   R@10':<22}R@1   R@5   R@10    mean"
    for name, recalls in (("before training", report.before), ("the new model", report.after)):
        sides = ("  ".join(f"{100 * value:4.1f}" for value in side) for side in _sides(recalls))
        yield f"{name:<18}{'      '.join(sides)}    {100 * recalls.mean:.1f} %"
    if report.after.mean < report.before.mean:
        yield "It is worse than the model it started from on these photos: more photos, or a smaller --lr, may help."
    yield ""
    yield f"use it:  mmsearch index PHOTOS --model {where} --collection NAME"
    yield f"curves:  {safe_path(str(report.out / 'curves.png'))}"


def _sides(recalls: Recalls) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    return recalls.text_to_image, recalls.image_to_text
