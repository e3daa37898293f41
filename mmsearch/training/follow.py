"""Follows a run: shows how it goes, keeps the best weights, saves what is needed to go on, ends it when asked to."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mmsearch.durable import write_atomic
from mmsearch.errors import MMSearchError
from mmsearch.indexer.interrupt import Interrupt
from mmsearch.progress import Progress, ProgressCallback
from mmsearch.training.batches import Dataset
from mmsearch.training.checkpoint import load_checkpoint, restore, save_checkpoint, save_weights
from mmsearch.training.curves import curves_png
from mmsearch.training.fitting import Loop, validate
from mmsearch.training.head_check import held_out_loss
from mmsearch.training.history import Epoch, History, history_from_json
from mmsearch.training.plan import Plan
from mmsearch.training.run_directory import RunDirectory
from mmsearch.training.validation import Recalls

SAVE_EVERY_S = 300.0


class TrainingStopped(MMSearchError):
    """The run was asked to stop, and did; the message says how to go on."""

    exit_code = 130


@dataclass(frozen=True)
class Tell:
    """How a run speaks: `say` receives sentences, `progress` how far it is, several times a second."""

    say: Callable[[str], None]
    progress: ProgressCallback | None = None


class Follow:
    """The watcher of one run in a directory of its own."""

    def __init__(self, run: RunDirectory, plan: Plan, validation: Dataset, *, interrupt: Interrupt, tell: Tell) -> None:
        self.run, self.plan, self.validation = run, plan, validation
        self.interrupt, self.tell = interrupt, tell
        self.history = History()
        self._saved_at = time.monotonic()

    def begin(self, loop: Loop) -> None:
        """Put `loop` where its checkpoint says, if it has one; else measure the model it starts from."""
        if self.run.checkpoint.exists():
            checkpoint = load_checkpoint(self.run.checkpoint)
            restore(loop, checkpoint)
            self.history = history_from_json(checkpoint.notes["history"])
            self.tell.say(f"going on after step {loop.step_number} of {loop.last_step}")
        else:
            self.history.close(validate(loop.model, self.validation))
            self.tell.say(f"before training: {_recalls(self.history.epochs[0].recalls)}")
        self._show(loop)

    def stepped(self, loop: Loop, losses: Mapping[str, float]) -> None:
        """Count the step; save when it is time, or when the run is to stop.

        Raises:
            TrainingStopped: it was to stop.
        """
        self.history.add(losses)
        self._show(loop)
        if not loop.todo:  # the epoch is done: `passed` comes next, and only it may close the epoch
            return
        if self.interrupt.requested or time.monotonic() - self._saved_at > SAVE_EVERY_S:
            self._save(loop)
        self._stop_if_asked(loop)

    def passed(self, loop: Loop, losses: Mapping[str, float], recalls: Recalls | None) -> None:
        """Close the epoch: keep its weights if they are the best, save, draw.

        Raises:
            TrainingStopped: the run was to stop.
        """
        model, matching = loop.average.model, None
        measured = validate(model, self.validation) if recalls is None else recalls
        if self.plan.unlock == "none" and model.matcher is not None:
            matching = held_out_loss(model, self.validation)
        done = self.history.close(measured, matching=matching)
        if self.history.best is done:
            with self.run.writing():
                save_weights(self.run.best(done.number), model)
        self._save(loop)
        with self.run.writing():
            self.run.keep_only(self.history.kept.number)
            write_atomic(self.run.curves, curves_png(self.history, title=self.run.path.name))
        self.tell.say(_line(done, self.plan.epochs))
        self._show(loop)
        self._stop_if_asked(loop)

    def _save(self, loop: Loop) -> None:
        with self.run.writing():
            save_checkpoint(self.run.checkpoint, loop, {"history": self.history.as_json()})
        self._saved_at = time.monotonic()

    def _stop_if_asked(self, loop: Loop) -> None:
        if self.interrupt.requested:
            raise TrainingStopped(
                f"stopped after step {loop.step_number} of {loop.last_step}, in epoch {loop.epoch} of"
                f" {self.plan.epochs}; the same command with --resume goes on"
            )

    def _show(self, loop: Loop) -> None:
        if self.tell.progress is None:
            return
        loss = sum(self.history.means().values()) if self.history.steps else self.history.epochs[-1].loss
        latest = self.history.epochs[-1].recalls
        words = f"epoch {loop.epoch}/{self.plan.epochs}  loss {loss:.3f}  {_recalls(latest)}"
        self.tell.progress(Progress("train", loop.step_number, loop.last_step, words))


def _recalls(recalls: Recalls) -> str:
    sides = (recalls.text_to_image[0], recalls.image_to_text[0], recalls.mean)
    return "R@1 {:.1f} text to image, {:.1f} image to text, mean recall {:.1f} %".format(
        *(100 * each for each in sides)
    )


def _line(epoch: Epoch, epochs: int) -> str:
    matching = "" if epoch.matching is None else f", matching loss {epoch.matching:.3f}"
    return f"epoch {epoch.number} of {epochs}: loss {epoch.loss:.3f}, {_recalls(epoch.recalls)}{matching}"
