"""Eight-bit files, by onnxruntime's own static quantisation."""

import ast
import json
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Set

import numpy as np
from torch import nn

from ..errors import UserError
from ..images import find_images
from .formats import first_line, to_openvino
from .runtimes import INPUT, METADATA, needed
from .subject import Size, Subject

OPERATORS = ("Conv", "Gemm", "MatMul")  # where nearly all of the time goes; norms, softmax and Fourier stay in floats
MOST_PICTURES = 100  # of calibration; ranges hardly change after some dozens


def check_calibration(folder: str, kind: str, dtype: str) -> None:
    """Refuses what cannot be quantised.

    Raises:
        UserError: There are no pictures, or the format or the precision has no such way.
    """
    if kind == "pt2":
        raise UserError("--int8 is for onnx and openvino: onnxruntime quantises, which knows no pt2")
    if dtype != "float32":
        raise UserError(f"--int8 starts from float32, got --dtype {dtype}")
    if not Path(folder).exists():
        raise UserError(f"--int8 takes a folder of calibration images, {folder} does not exist")
    find_images([folder])


def quantise(path: Path, out: Path, subject: Subject, folder: str, size: Size) -> List[Path]:
    """Writes a file whose products with weights are of eight bits.

    Args:
        path: An ONNX file in float32.
        out: Of ONNX or OpenVINO, by its ending.
        subject: Prepares the pictures.
        folder: Of calibration pictures.
        size: Height and width in pixels of those.

    Returns:
        The files that belong together.

    Raises:
        UserError: A picture cannot be read, or onnxruntime cannot quantise the model.
    """
    onnx = needed("onnx")
    quantization = needed("onnxruntime.quantization")
    shape_inference = needed("onnxruntime.quantization.shape_inference")
    model = onnx.load(str(path), load_external_data=False)
    text = next(entry.value for entry in model.metadata_props if entry.key == METADATA)
    text = json.dumps({**json.loads(text), "dtype": "int8"})
    batch = model.graph.input[0].type.tensor_type.shape.dim[0].dim_value or 1
    paths = find_images([folder])[:MOST_PICTURES]
    whole = out.with_name("prepared.onnx")
    eight_bits = out.with_suffix(".onnx")
    try:
        # Without symbolic inference, which cannot follow suppression.
        shape_inference.quant_pre_process(str(path), str(whole), skip_symbolic_shape=True)
        quantization.quantize_static(
            str(whole),
            str(eight_bits),
            _Pictures(subject, paths, size, batch),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=list(OPERATORS),
            nodes_to_exclude=_kept_in_float(
                onnx.load(str(whole), load_external_data=False).graph, _on_frequencies(model.graph, subject.graph)
            ),
            per_channel=True,
            extra_options={"ActivationSymmetric": False, "WeightSymmetric": True},
        )
    except UserError:  # of a picture
        raise
    except Exception as error:  # of onnxruntime's many
        raise UserError(f"the model cannot be quantised: {first_line(error)}") from error
    whole.unlink()
    written = onnx.load(str(eight_bits))
    del written.metadata_props[:]
    entry = written.metadata_props.add()
    entry.key, entry.value = METADATA, text
    onnx.save(written, str(eight_bits))
    if out.suffix == ".onnx":
        return [eight_bits]
    files = to_openvino(eight_bits, out, text)
    eight_bits.unlink()
    return files


def _kept_in_float(graph: Any, exact: Set[str]) -> List[str]:
    """Names of the operators of `OPERATORS` that are no products with weights, or are among those that stay exact."""
    weights = {tensor.name for tensor in graph.initializer}
    return [
        node.name
        for node in graph.node
        if node.op_type in OPERATORS and (not weights & set(node.input) or node.name in exact)
    ]


def _on_frequencies(graph: Any, model: nn.Module) -> Set[str]:
    """Names of the operators of transforms and of filters of frequencies, whose values differ by orders of magnitude.

    Args:
        graph: As the exporter wrote it; what prepares it for quantisation drops its notes.
        model: What was exported.
    """
    # Classes that transform say by `counted_as` that theirs count as FFTs.
    parts = {name for name, part in model.named_modules() if getattr(part, "counted_as", ("",))[0] == "method"}
    exact = set()
    for node in graph.node:
        notes = {entry.key: entry.value for entry in node.metadata_props}
        # The modules that it is in, from the outermost on, and itself.
        scopes = ast.literal_eval(notes.get("pkg.torch.onnx.name_scopes", "[]"))
        if parts & set(scopes[-2:-1]):  # of the part itself and not of a layer in it
            exact.add(node.name)
    return exact


class _Pictures:
    """onnxruntime's CalibrationDataReader."""

    def __init__(self, subject: Subject, paths: List[Path], size: Size, batch: int) -> None:
        self.batches = self._batches(subject, paths, size, batch)

    def get_next(self) -> Optional[Dict[str, np.ndarray]]:
        """The next inputs, None at the end."""
        return next(self.batches, None)

    @staticmethod
    def _batches(subject: Subject, paths: List[Path], size: Size, batch: int) -> Iterator[Dict[str, np.ndarray]]:
        for start in range(0, len(paths), batch):
            some = [subject.prepare(path, size) for path in paths[start : start + batch]]
            some += [some[-1]] * (batch - len(some))
            yield {INPUT: np.stack(some)}
