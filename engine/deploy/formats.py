"""Writing a graph to a file of each format."""

import contextlib
import json
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import nn
from torch.export import Dim, ExportedProgram
from torch.overrides import TorchFunctionMode

from ..errors import UserError
from .runtimes import INPUT, METADATA, needed, quietly

SUFFIXES = {"onnx": ".onnx", "pt2": ".pt2", "openvino": ".xml"}
FORMATS = tuple(SUFFIXES)
LEAST_OPSET, DEFAULT_OPSET, GREATEST_OPSET = 18, 20, 23  # as torch's exporter has them
_MOST_BYTES = 2**30 * 1.8  # an ONNX file of more than 2 GiB keeps its weights beside it


def beside(path: Path, kind: str) -> Optional[Path]:
    """The second file of a format: OpenVINO's weights, and those of a large ONNX model; None where there is none."""
    return {"openvino": path.with_suffix(".bin"), "onnx": path.with_name(f"{path.name}.data")}.get(kind)


def trace(graph: nn.Module, images: torch.Tensor, dynamic: Sequence[str] = ()) -> ExportedProgram:
    """Records a graph.

    Args:
        graph: What is exported.
        images: An example.
        dynamic: Which of "batch", "height" and "width" may differ from the example's.

    Raises:
        UserError: The model computes something that depends on its input in a way that no graph can hold.
    """
    axes = {"batch": 0, "height": 2, "width": 3}
    shapes = {axes[name]: Dim.DYNAMIC for name in dynamic}
    try:
        with quietly(), _AnyPooling() if {"height", "width"} & set(dynamic) else contextlib.nullcontext():
            return torch.export.export(graph, (images,), dynamic_shapes=(shapes,) if shapes else None, strict=False)
    except Exception as error:  # torch raises many kinds, from many places
        what = "with dynamic " + ", ".join(dynamic) if dynamic else f"at {tuple(images.shape)}"
        raise UserError(f"the model cannot be exported {what}: {first_line(error)}") from error


class _AnyPooling(TorchFunctionMode):
    """Lets means over parts of a map be for any map: torch takes `adaptive_avg_pool2d` apart into other operators where
    the parts divide the sides of the example than where they do not, and does not ask again at other sizes.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """See `torch.overrides.TorchFunctionMode`."""
        if func is F.adaptive_avg_pool2d:
            return _mean_of_parts(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _mean_of_parts(x: torch.Tensor, output_size: Any) -> torch.Tensor:
    """`adaptive_avg_pool2d` of (..., H, W) by a product with the weights of rows and one with those of columns."""
    counts = [output_size] * 2 if isinstance(output_size, int) else output_size
    for dim, count in zip((-2, -1), counts):
        if count == 1:
            x = x.mean(dim, keepdim=True)
        elif count is not None:
            x = (x.transpose(dim, -1) @ _parts(x.shape[dim], count, x)).transpose(dim, -1)
    return x


def _parts(side: int, count: int, like: torch.Tensor) -> torch.Tensor:
    """Weights (side, count) of the cells of a side in the mean of each of its parts."""
    cells = torch.arange(side, device=like.device)
    parts = torch.arange(count, device=like.device)
    start = torch.div(parts * side, count, rounding_mode="floor")
    end = torch.div((parts + 1) * side + count - 1, count, rounding_mode="floor")
    inside = (cells[:, None] >= start) & (cells[:, None] < end)
    return inside.to(like.dtype) / (end - start).to(like.dtype)


def write(
    program: ExportedProgram, path: Path, kind: str, outputs: Sequence[str], metadata: Dict[str, Any], opset: int
) -> List[Path]:
    """Writes a program.

    Args:
        program: Of `trace`.
        path: With the ending of the format.
        kind: One of `FORMATS`.
        outputs: Their names.
        metadata: What the file says of itself.
        opset: Version of ONNX's operators.

    Returns:
        The files that belong together, the one that is opened first.

    Raises:
        UserError: The format has no operator for something that the model does.
    """
    text = json.dumps(metadata)
    if kind == "pt2":
        torch.export.save(program, str(path), extra_files={METADATA: text})
        return [path]
    onnx_path = path if kind == "onnx" else path.with_suffix(".onnx")
    files = _write_onnx(program, onnx_path, outputs, text, opset)
    if kind == "onnx":
        return files
    written = to_openvino(onnx_path, path, text)
    for file in files:
        file.unlink()
    return written


def _write_onnx(program: ExportedProgram, path: Path, outputs: Sequence[str], text: str, opset: int) -> List[Path]:
    for module in ("onnx", "onnxscript"):
        needed(module)
    try:
        # With gradients, attention with a bias is taken apart into another layout than the one that the program views.
        with quietly(), torch.no_grad():
            model = torch.onnx.export(
                program,
                dynamo=True,
                verbose=False,
                input_names=[INPUT],
                output_names=list(outputs),
                opset_version=opset,
                optimize=False,
            )
            _simplify(model.model)
    except Exception as error:  # of torch, onnxscript and onnx
        raise UserError(f"the model cannot be written as ONNX of opset {opset}: {first_line(error)}") from error
    written = model.model.opset_imports[""]
    if written != opset:  # a version that has an operator that the model needs
        raise UserError(f"the model needs ONNX operators of opset {written}, --opset is {opset}")
    model.model.metadata_props[METADATA] = text
    size = sum(tensor.numel() * tensor.element_size() for tensor in program.state_dict.values())
    model.save(str(path), external_data=size > _MOST_BYTES)
    weights = beside(path, "onnx")
    return [path, *([weights] if weights.exists() else [])]


def _simplify(model: Any) -> None:
    """Folds constants and removes what is not needed or said twice.

    The exporter's own optimiser does this and then looks for pairs of slices of one tensor, in a time that grows with
    the square of the operators: minutes for a DAT. The runtimes fuse more than it does when they load a file.
    """
    optimizer, passes = needed("onnxscript.optimizer"), needed("onnx_ir.passes.common")
    optimizer.fold_constants(model)
    passes.RemoveUnusedNodesPass()(model)
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    passes.LiftSubgraphInitializersToMainGraphPass()(model)
    passes.DeduplicateInitializersPass()(model)
    passes.CommonSubexpressionEliminationPass()(model)
    passes.OutputFixPass()(model)
    passes.NameFixPass()(model)


def to_openvino(onnx_path: Path, path: Path, text: str) -> List[Path]:
    """Turns an ONNX file into OpenVINO's .xml and .bin.

    Raises:
        UserError: It has no operator for something that the file does.
    """
    openvino = needed("openvino")
    try:
        model = openvino.convert_model(str(onnx_path))
    except Exception as error:  # of OpenVINO's many
        raise UserError(f"the model cannot be written for OpenVINO: {first_line(error)}") from error
    model.set_rt_info(text, METADATA)
    openvino.save_model(model, str(path), compress_to_fp16=False)
    return [path, beside(path, "openvino")]


def check_opset(opset: Optional[int]) -> int:
    """Takes a version of ONNX's operators.

    Raises:
        UserError: The exporter does not write it.
    """
    if opset is None:
        return DEFAULT_OPSET
    if not LEAST_OPSET <= opset <= GREATEST_OPSET:
        raise UserError(
            f"--opset is {opset}; allowed are {LEAST_OPSET} to {GREATEST_OPSET}, default is {DEFAULT_OPSET}"
        )
    return opset


def first_line(error: Exception) -> str:
    """The innermost reason, in a line: exporters wrap theirs in pages of advice."""
    cause: Optional[BaseException] = error
    while cause is not None and cause.__cause__ is not None:
        cause = cause.__cause__
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return (lines[0] if lines else type(cause).__name__)[:400]


def shape_of(images: torch.Tensor, dynamic: Sequence[str]) -> Tuple[Optional[int], ...]:
    """(batch, channels, height, width) of an example, None for what is dynamic."""
    names = ("batch", "channels", "height", "width")
    return tuple(None if name in dynamic else side for name, side in zip(names, images.shape))
