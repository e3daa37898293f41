"""What a finished evaluation is for tests that only look at one."""

from __future__ import annotations

from dataclasses import dataclass

from mmsearch.eval.embeddings import Embedded
from mmsearch.eval.record import EvalRun
from mmsearch.model import Model


@dataclass(frozen=True)
class Finished:
    """A run with the model and the embeddings it came from. Read only."""

    model: Model
    embedded: Embedded
    run: EvalRun
