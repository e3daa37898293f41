"""The model card of an exported open_clip model: what it was, how it was written, how well it agrees."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata

from mmsearch.model_manifest import ModelManifest
from mmsearch.safe_text import safe_text
from mmsearch.training.export_check import Agreement

CARD, SOURCE_CARD = "MODEL_CARD.md", "SOURCE_MODEL_CARD.md"
SOURCE_CARDS = ("MODEL_CARD.md", "README.md")
_TOOLS = ("torch", "open_clip_torch", "onnx", "onnxruntime")


@dataclass(frozen=True, slots=True)
class ExportFacts:
    """What was written: `bytes` of the graphs, and how well they agree with torch."""

    int8: bool
    bytes: int
    found: Agreement
    has_source_card: bool


def export_card(source: ModelManifest, facts: ExportFacts) -> str:
    """Return the card in Markdown."""
    size = source.preprocess
    precision = (
        "int8 linear maps with a scale for each row of their input, int8 word table, the rest float16; sums are float32"
        if facts.int8
        else "float32"
    )
    described = (
        ("original", f"{safe_text(source.name)} {safe_text(source.version)}, fingerprint {source.fingerprint}"),
        ("licence", safe_text(source.license)),
        ("embeddings", f"{source.dim} numbers"),
        ("pictures", f"{size.width} x {size.height} pixels, {size.resize}, {size.interpolation}"),
        ("texts", f"at most {source.max_tokens} tokens{', always padded' if source.pad else ''}"),
        ("precision", precision),
        ("graphs", f"{facts.bytes:,} bytes"),
        ("written with", ", ".join(f"{tool} {metadata.version(tool)}" for tool in _TOOLS)),
    )
    more = f" What its makers say of it stands in {SOURCE_CARD}." if facts.has_source_card else ""
    lines = [
        f"# {safe_text(source.name)}, exported",
        "",
        f"An open_clip model as two ONNX graphs: it runs without torch and without open_clip.{more}",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {_cell(value)} |" for name, value in described),
        "",
        "## How well it agrees with the original",
        "Smallest cosine between the embeddings of both, of random pictures and of sentences of any length:"
        f" {facts.found.images:.6f} (pictures), {facts.found.texts:.6f} (texts). Between an item alone and the same"
        f" item in a batch: {facts.found.alone:.6f}.",
        "",
        "## Terms and limits",
        "They are those of the original. What was measured of the original is repeated in the manifest; it was not"
        " measured again."
        + (" Compare int8 with `mmsearch eval --compare` on photos that matter to you." if facts.int8 else ""),
        "",
    ]
    return "\n".join(lines)


def _cell(text: str) -> str:
    return text.replace("|", r"\|")
