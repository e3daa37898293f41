"""Turns a torch module into a float32 ONNX graph. The only caller of torch's exporter."""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from onnx import ModelProto, numpy_helper
from torch import Tensor, nn

TRANSPOSED = ".transposed"


def traced(
    module: nn.Module,
    examples: Mapping[str, Tensor],
    dynamic: Mapping[str, dict[int, torch.export.Dim]],
    *,
    outputs: tuple[str, ...],
) -> ModelProto:
    """Return the graph of `module` with inputs named as `examples` are and outputs named `outputs`, both in order.

    Weights are named after the parameters of `module`, those that the exporter has transposed with `TRANSPOSED` added.

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
            output_names=[f"result_{name}_to_rename" for name in outputs],
            dynamic_shapes=tuple(dynamic.values()),
            dynamo=True,
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export returned no program")
    model: ModelProto = program.model_proto
    # The exporter may have used the wanted name inside the graph already, so the result gets its name only now.
    for output in outputs:
        for old, new in ((output, f"inner_{output}"), (f"result_{output}_to_rename", output)):
            _rename(model, old, new)
    _name_weights(model, module)
    return without_traces(model)


def _name_weights(model: ModelProto, module: nn.Module) -> None:
    """Give weights that the exporter folded into constants the names of their parameters back."""
    known = {tensor.name for tensor in model.graph.initializer}
    names: dict[tuple[tuple[int, ...], bytes], str] = {}
    for name, parameter in module.named_parameters():
        if name not in known and parameter.ndim == 2:
            values = parameter.detach().float().cpu().numpy()
            names[values.T.shape, _digest(values.T)] = name + TRANSPOSED
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        wanted = names.get((values.shape, _digest(values))) if values.dtype == np.float32 else None
        if wanted is not None and wanted not in known:
            known.add(wanted)
            _rename(model, tensor.name, wanted)
            tensor.name = wanted


def _digest(values: npt.NDArray[np.float32]) -> bytes:
    return hashlib.sha256(values.tobytes()).digest()


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
