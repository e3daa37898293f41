"""Image tokens and word states -> logits: the image-text matching (ITM) head of a model, on the CPU.

The head looks at a picture and a sentence together, which the two towers never do; so it is asked about the best
candidates alone. Li et al. 2021, "Align before Fuse", arXiv 2107.07651, section 3.2 (ITM).
"""

from __future__ import annotations

import threading
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from mmsearch.errors import ModelError
from mmsearch.model_manifest import ModelManifest
from mmsearch.onnx_session import Inputs, OnnxSession
from mmsearch.safe_text import safe_text

Number = TypeVar("Number", bound=np.generic)

# Pairs in one run of the head: more of them leave the processor's caches, and each takes longer.
PAIRS_AT_ONCE = 64


class MatchScorer:
    """The matching head of a model directory, on `threads` CPU threads; read and checked when it is first used.

    Safe to use from several threads.

    Raises:
        ModelError: the model has no matching head.
    """

    def __init__(self, manifest: ModelManifest, *, threads: int, once: bool = False) -> None:
        if manifest.itm is None:
            raise ModelError(f"model '{safe_text(manifest.name)}' has no image-text matching head")
        self._manifest = manifest
        self._threads = threads
        self._once = once
        self._session: OnnxSession | None = None
        self._lock = threading.Lock()
        self.facts = manifest.itm

    def load(self) -> None:
        """Makes the head ready now instead of at the first call that needs it.

        Raises:
            ModelError: its file is not what the manifest says.
        """
        self._loaded()

    def logits(
        self, tokens: NDArray[np.int8], states: NDArray[np.float32], mask: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """How well each picture and the sentence beside it belong together, as logits float32 (B,).

        `tokens` int8 (B, tokens, token_dim), `states` float32 (B, L, state_dim) and `mask` int64 (B, L), 1 for tokens
        and 0 for padding. One picture beside many sentences, or one sentence beside many pictures, is each one's
        partner.

        Raises:
            ModelError: the head cannot be loaded, or gives something else than finite logits.
        """
        self._check(tokens, states, mask)
        pairs = max(len(tokens), len(states)) if len(tokens) and len(states) else 0
        found = [np.zeros(0, np.float32)]
        for start in range(0, pairs, PAIRS_AT_ONCE):
            stop = min(start + PAIRS_AT_ONCE, pairs)
            found.append(self._run(_rows(tokens, start, stop), _rows(states, start, stop), _rows(mask, start, stop)))
        return np.concatenate(found)

    def _run(
        self, tokens: NDArray[np.int8], states: NDArray[np.float32], mask: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        session = self._loaded()
        inputs: Inputs = {"tokens": tokens, "states": states, "attention_mask": mask}
        (logits,) = session.run({"logit": (len(tokens),)}, inputs)
        if not np.isfinite(logits).all():
            raise session.complaint("gave a logit that is not finite")
        return np.asarray(logits, np.float32)

    def _loaded(self) -> OnnxSession:
        with self._lock:
            if self._session is None:
                self._session = OnnxSession(self._manifest, self.facts.file, threads=self._threads, once=self._once)
            return self._session

    def _check(self, tokens: NDArray[np.int8], states: NDArray[np.float32], mask: NDArray[np.int64]) -> None:
        facts = self.facts
        if tokens.dtype != np.int8 or tokens.ndim != 3 or tokens.shape[1:] != (facts.tokens, facts.token_dim):
            raise ValueError(
                f"tokens are {tokens.dtype} {tokens.shape}, not int8 (B, {facts.tokens}, {facts.token_dim})"
            )
        if states.dtype != np.float32 or states.ndim != 3 or states.shape[2] != facts.state_dim:
            raise ValueError(f"states are {states.dtype} {states.shape}, not float32 (B, L, {facts.state_dim})")
        if mask.dtype != np.int64 or mask.shape != states.shape[:2]:
            raise ValueError(f"mask is {mask.dtype} {mask.shape}, not int64 {states.shape[:2]} as the states")
        if len(tokens) != len(states) and 1 not in (len(tokens), len(states)):
            raise ValueError(f"{len(tokens)} pictures and {len(states)} sentences make no pairs")


def match_prob(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """The probability that a pair belongs together, sigmoid(logit), in [0, 1]."""
    # tanh saturates where exp would overflow.
    return 0.5 * (1 + np.tanh(0.5 * logits.astype(np.float64)))


def _rows(array: NDArray[Number], start: int, stop: int) -> NDArray[Number]:
    """Rows `start` to `stop` of `array`, or its only row as often as that."""
    if len(array) == 1:
        return np.ascontiguousarray(np.broadcast_to(array, (stop - start, *array.shape[1:])))
    return np.ascontiguousarray(array[start:stop])
