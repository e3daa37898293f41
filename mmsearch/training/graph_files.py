"""Writes graphs of any size: what one protobuf message cannot hold goes into one file beside it."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import ModelProto

from mmsearch.model_manifest import data_file

# A protobuf message ends at 2 GiB; the rest is for the graph itself.
LARGEST_INSIDE = 2_000_000_000
_SMALLEST_OUTSIDE = 1024  # bytes


def write_graph(graph: ModelProto, path: Path, *, largest_inside: int = LARGEST_INSIDE) -> None:
    """Write `graph` to `path`, after ONNX's own check.

    Weights of more than `largest_inside` bytes go into the file beside it that `data_file` names; `graph` has lost
    them then.
    """
    if weight_bytes(graph) <= largest_inside:
        onnx.checker.check_model(graph)
        path.write_bytes(graph.SerializeToString())
        return
    outside = data_file(path.name)
    (path.parent / outside).unlink(missing_ok=True)  # it would be written to its end
    onnx.save_model(graph, str(path), save_as_external_data=True, location=outside, size_threshold=_SMALLEST_OUTSIDE)
    onnx.checker.check_model(str(path))


def weight_bytes(graph: ModelProto) -> int:
    """Return how many bytes the weights of `graph` take; unlike its own size, that is known without a copy of it."""
    return sum(len(tensor.raw_data) for tensor in graph.graph.initializer)
