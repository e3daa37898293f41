"""Turns a torch module into a float32 ONNX graph. The only caller of torch's exporter."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping

import torch
from onnx import ModelProto
from torch import Tensor, nn

_RESULT = "result_to_rename"


def traced(
    module: nn.Module,
    examples: Mapping[str, Tensor],
    dynamic: Mapping[str, dict[int, torch.export.Dim]],
    *,
    output: str,
) -> ModelProto:
    """Return the graph of `module` with inputs named as `examples` are, in order, and one output named `output`.

    Args:
        examples: one tensor an input; axes that `dynamic` does not name keep their length.
        dynamic: for each input, its axes of free length.

    Raises:
        RuntimeError: the exporter gave no program.
    """
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it reports that torchvision is not installed
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations; parity is checked on the result
        program = torch.onnx.export(
            module.eval(),
            tuple(examples.values()),
            input_names=list(examples),
            output_names=[_RESULT],
            dynamic_shapes=tuple(dynamic.values()),
            dynamo=True,
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export returned no program")
    model: ModelProto = program.model_proto
    # The exporter may have used the wanted name inside the graph already, so the result gets its name only now.
    for old, new in ((output, f"inner_{output}"), (_RESULT, output)):
        _rename(model, old, new)
    return without_traces(model)


def _rename(model: ModelProto, old: str, new: str) -> None:
    """Rename the value `old` to `new` wherever it is made, read or given out."""
    for node in model.graph.node:
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                if name == old:
                    names[place] = new
    for value in (*model.graph.output, *model.graph.value_info):
        if value.name == old:
            value.name = new


def without_traces(model: ModelProto) -> ModelProto:
    """Return `model` without the exporter's notes (source lines, host paths), which are no part of a model."""
    for item in (*model.graph.node, *model.graph.input, *model.graph.output, *model.graph.initializer):
        item.doc_string = ""
        del item.metadata_props[:]
    model.graph.doc_string = model.doc_string = ""
    del model.metadata_props[:], model.graph.metadata_props[:]
    model.producer_name, model.producer_version = "mmsearch", ""
    return model
