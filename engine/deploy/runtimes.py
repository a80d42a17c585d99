"""Exported files, each run by the runtime of its format, behind one interface."""

import contextlib
import io
import json
import logging
import warnings
from abc import ABC, abstractmethod
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Dict, Iterator, List, Optional, Tuple, Union

import numpy as np
import torch

from ..errors import UserError

INPUT = "images"
METADATA = "spectral_backbones"  # where a file says what it is, as JSON
PathLike = Union[str, Path]


def needed(module: str) -> ModuleType:
    """Imports a runtime.

    Raises:
        UserError: It is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        name = module.split(".")[0]
        extra = name if name == "openvino" else "export"
        raise UserError(f"this needs the package {name}: pip install 'spectral-backbones[{extra}]'") from error


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Exporters and loaders tell of their steps, and warn of what torch itself does."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


class Program(ABC):
    """An exported file, ready to run.

    Attributes:
        path: The file.
        metadata: What it says of itself.
        shape: (batch, channels, height, width) of the pictures, None for what is dynamic.
        dtype: Of the pictures.
    """

    def __init__(self, path: PathLike, metadata: Optional[str]) -> None:
        self.path = Path(path)
        if not metadata:
            raise UserError(f"{path} does not say what it is: it was not written by `spectral export`")
        try:
            self.metadata: Dict[str, Any] = json.loads(metadata)
            images = self.metadata["images"]
            self.shape: Tuple[Optional[int], ...] = tuple(images["shape"])
            self.dtype = np.dtype(images["dtype"])
            self.outputs: List[str] = self.metadata["outputs"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} says of itself what `spectral export` does not write: {_line(error)}") from error

    @property
    def size(self) -> Optional[Tuple[int, int]]:
        """Height and width in pixels; None where the file takes any."""
        return None if None in self.shape[2:] else (self.shape[2], self.shape[3])

    @abstractmethod
    def run(self, images: np.ndarray) -> List[np.ndarray]:
        """Runs the file on a batch of the very shape that it takes; gives its outputs in their order."""

    def __call__(self, images: np.ndarray) -> Dict[str, np.ndarray]:
        """Runs the file on any number of pictures.

        Args:
            images: (B, channels, H, W). A file of a fixed batch takes them in runs of that, the last filled up.

        Returns:
            The outputs by their names, B rows each.

        Raises:
            UserError: The pictures have another size or other channels than the file takes, or its runtime fails.
        """
        wrong = [given for given, taken in zip(images.shape[1:], self.shape[1:]) if taken not in (None, given)]
        if wrong:
            taken = "x".join("any" if side is None else str(side) for side in self.shape[1:])
            given = "x".join(map(str, images.shape[1:]))
            raise UserError(f"{self.path} takes pictures of {taken} (channels, height, width), got {given}")
        images = np.ascontiguousarray(images.astype(self.dtype, copy=False))
        batch, count = self.shape[0] or len(images), len(images)
        fill = np.zeros((-count % batch, *images.shape[1:]), images.dtype)
        images = np.concatenate([images, fill]) if len(fill) else images
        try:
            runs = [self.run(images[start : start + batch]) for start in range(0, len(images), batch)]
        except Exception as error:  # of the runtimes' many
            given = "x".join(map(str, (batch, *images.shape[1:])))
            raise UserError(f"{self.path} cannot take pictures of {given}: {_line(error)}") from error
        return {name: np.concatenate(parts)[:count] for name, parts in zip(self.outputs, zip(*runs))}


class OnnxProgram(Program):
    """An ONNX file in onnxruntime."""

    def __init__(self, path: PathLike, threads: Optional[int] = None) -> None:
        onnxruntime = needed("onnxruntime")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # what ends it; errors are raised, too, and are told in a line
        options.intra_op_num_threads = threads or torch.get_num_threads()
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # of onnxruntime's many
            raise UserError(f"{path} cannot be run by onnxruntime: {_line(error)}") from error
        super().__init__(path, self.session.get_modelmeta().custom_metadata_map.get(METADATA))

    def run(self, images: np.ndarray) -> List[np.ndarray]:
        """See `Program.run`."""
        return self.session.run(self.outputs, {INPUT: images})


class TorchProgram(Program):
    """A pt2 file in torch."""

    def __init__(self, path: PathLike) -> None:
        import torchvision  # noqa: F401  registers the operators that a file may hold

        extra = {METADATA: ""}
        try:
            with quietly():  # it tells of a damaged file in pages, and then raises no more than that it did so
                self.module = torch.export.load(str(path), extra_files=extra).module()
        except Exception as error:  # of torch's many
            raise UserError(
                f"{path} cannot be run by torch {torch.__version__}: it is damaged, of another version, or no program "
                f"of torch.export ({type(error).__name__})"
            ) from error
        super().__init__(path, extra[METADATA])

    @torch.inference_mode()
    def run(self, images: np.ndarray) -> List[np.ndarray]:
        """See `Program.run`."""
        return [output.numpy() for output in self.module(torch.from_numpy(images))]


@cache
def _openvino_core() -> Any:
    """The one core of OpenVINO in this process.

    A core gives the thread a stack for its signals and, when it goes, puts back the one that it found. Two that do not
    go in the opposite order of their coming leave the thread one that is freed already, and the next signal (that of a
    loader's worker which has ended) is a segmentation fault.
    """
    return needed("openvino").Core()


class OpenVinoProgram(Program):
    """An OpenVINO file, which is an .xml and a .bin beside it, on the CPU."""

    def __init__(self, path: PathLike, threads: Optional[int] = None) -> None:
        core = _openvino_core()
        # By default it computes in half precision where the processor can.
        config = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads or torch.get_num_threads()}
        try:
            model = core.read_model(str(path))
            self.compiled = core.compile_model(model, "CPU", config)
        except Exception as error:  # of OpenVINO's many
            raise UserError(f"{path} cannot be run by OpenVINO: {_line(error)}") from error
        super().__init__(path, model.get_rt_info(METADATA).astype(str) if model.has_rt_info(METADATA) else None)

    def run(self, images: np.ndarray) -> List[np.ndarray]:
        """See `Program.run`."""
        found = self.compiled({INPUT: images})
        return [found[name].copy() for name in self.outputs]


PROGRAMS = {".onnx": OnnxProgram, ".pt2": TorchProgram, ".xml": OpenVinoProgram}


def exported(path: PathLike) -> bool:
    """Whether a path is that of an exported file, by its ending."""
    return Path(path).suffix.lower() in PROGRAMS


def open_program(path: PathLike) -> Program:
    """Opens an exported file.

    Raises:
        UserError: There is no such file, it is none of `spectral export`, or its runtime is not installed.
    """
    kind = PROGRAMS.get(Path(path).suffix.lower())
    if kind is None:
        raise UserError(f"{path} is no exported file: their names end in {', '.join(PROGRAMS)}")
    if not Path(path).is_file():
        raise UserError(f"exported file {path} does not exist")
    return kind(path)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
