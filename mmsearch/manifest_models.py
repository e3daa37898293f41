"""The models that `collection.json` and a snapshot name, as values and in JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mmsearch.safe_text import safe_path, safe_text


@dataclass(frozen=True, slots=True)
class ModelRef:
    """Which model made the embeddings. Two models with the same fingerprint give the same embeddings.

    `location` is its directory, absolute; None for a bundled model, which is found by its name wherever it is now.
    """

    name: str
    fingerprint: str
    dim: int
    location: str | None = None

    @property
    def argument(self) -> str:
        """What a person writes after --model to mean it, as it may be shown."""
        return safe_text(self.name) if self.location is None else safe_path(self.location)


@dataclass(frozen=True, slots=True)
class ModelSwitch:
    """The change to another model that is under way; with `keep_old` the embeddings of the old one are to stay."""

    to: ModelRef
    keep_old: bool = False


def ways_out(old: ModelRef, new: ModelRef) -> str:
    """How a person goes on with a change from `old` to `new` that is under way, and how to give it up."""
    return (
        f"`mmsearch index --model {new.argument}` goes on with it, `mmsearch index --model {old.argument}` gives it up"
    )


def model_to_json(model: ModelRef) -> dict[str, Any]:
    """A model as JSON; bytes of its location that are not UTF-8 survive as lone surrogates."""
    table: dict[str, Any] = {"name": model.name, "fingerprint": model.fingerprint, "dim": model.dim}
    return table if model.location is None else {**table, "location": model.location}


def model_from_json(table: dict[str, Any]) -> ModelRef:
    """The inverse of `model_to_json`."""
    location = table.get("location")
    known = None if location is None else str(location)
    return ModelRef(str(table["name"]), str(table["fingerprint"]), int(table["dim"]), known)


def switch_to_json(switch: ModelSwitch) -> dict[str, Any]:
    """A change of model as JSON."""
    return {"to": model_to_json(switch.to), "keep_old": switch.keep_old}


def switch_from_json(table: dict[str, Any]) -> ModelSwitch:
    """The inverse of `switch_to_json`."""
    return ModelSwitch(model_from_json(table["to"]), bool(table["keep_old"]))
