"""A model in several runtimes, to be timed side by side."""

import json
from pathlib import Path
from typing import Callable, Dict

import torch
from torch import Tensor, nn

from ..errors import UserError
from .formats import DEFAULT_OPSET, SUFFIXES, shape_of, to_openvino, trace, write
from .runtimes import open_program

Step = Callable[[], object]  # one pass over a batch
Load = Callable[[], Step]


def _eager(model: nn.Module, images: Tensor, folder: Path) -> Load:
    return lambda: torch.inference_mode()(lambda: model(images))


def _compile(model: nn.Module, images: Tensor, folder: Path) -> Load:
    def load() -> Step:
        torch.compiler.reset()
        compiled = torch.compile(model)
        return torch.inference_mode()(lambda: compiled(images))

    return load


def _file(kind: str) -> Callable[[nn.Module, Tensor, Path], Load]:
    def prepare(model: nn.Module, images: Tensor, folder: Path) -> Load:
        onnx_path, path = folder / "model.onnx", folder / f"model{SUFFIXES[kind]}"
        metadata = {"images": {"dtype": "float32", "shape": shape_of(images, ())}, "outputs": ["logits"]}
        if not onnx_path.exists():  # OpenVINO's is made of it, too
            write(trace(model, images), onnx_path, "onnx", ["logits"], metadata, DEFAULT_OPSET)
        if kind == "openvino":
            to_openvino(onnx_path, path, json.dumps(metadata))
        array = images.numpy()

        def load() -> Step:
            program = open_program(path)
            return lambda: program.run(array)

        return load

    return prepare


def _aoti(model: nn.Module, images: Tensor, folder: Path) -> Load:
    try:
        path = torch._inductor.aoti_compile_and_package(trace(model, images), package_path=str(folder / "aoti.pt2"))
    except Exception as error:  # of inductor's many, and of the C++ compiler
        raise UserError(f"AOTInductor cannot compile the model: {' '.join(str(error).split())[:300]}") from error

    def load() -> Step:
        compiled = torch._inductor.aoti_load_package(path)
        return torch.inference_mode()(lambda: compiled(images))

    return load


RUNTIMES: Dict[str, Callable[[nn.Module, Tensor, Path], Load]] = {
    "eager": _eager,
    "compile": _compile,
    "onnxruntime": _file("onnx"),
    "openvino": _file("openvino"),
    "aoti": _aoti,
}


def prepare(runtime: str, model: nn.Module, images: Tensor, folder: Path) -> Load:
    """Exports a model for a runtime; what is returned loads it, and gives what runs it once.

    Args:
        runtime: One of `RUNTIMES`.
        model: In evaluation, on the CPU.
        images: A batch, float32.
        folder: Where files go.

    Raises:
        UserError: The runtime cannot run it.
    """
    with torch.no_grad():
        return RUNTIMES[runtime](model, images, folder)
