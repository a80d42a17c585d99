"""The whole way of a model into a file."""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional

import numpy as np
import torch

from .. import figures
from ..errors import UserError
from ..outputs import check_file
from .compare import HALF_FACTOR, compare
from .formats import FORMATS, SUFFIXES, beside, check_opset, shape_of, trace, write
from .photos import batch_of, find_photos
from .quantise import check_calibration, quantise
from .runtimes import open_program
from .subject import Arrays, Size, Subject

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
CHECKED = 3  # pictures of each size that are compared
Judge = Callable[[Path], Dict[str, Any]]  # figures of a file on a test set


@dataclass
class Settings:
    """What is asked for.

    Attributes:
        kind: One of `FORMATS`.
        out: The file.
        size: Height and width in pixels; None takes the model's.
        dynamic: Whether the file takes any height and width.
        batch: Pictures at once; None takes any number.
        dtype: Of weights and computation, one of `DTYPES`; pictures and outputs have their own.
        opset: Version of ONNX's operators; None takes torch's default.
        photos: Folder of pictures to compare with; None makes some.
        calibration: Folder of pictures that int8 is calibrated by; None writes floats.
        judge: Evaluates a file, before and after quantisation.
        most_lost: Points of the telling figure that quantisation may cost; None lets it cost any.
    """

    kind: str
    out: Path
    size: Optional[Size] = None
    dynamic: bool = False
    batch: Optional[int] = 1
    dtype: str = "float32"
    opset: Optional[int] = None
    photos: Optional[str] = None
    calibration: Optional[str] = None
    judge: Optional[Judge] = None
    most_lost: Optional[float] = None

    def check(self) -> None:
        """Refuses what no file can be.

        Raises:
            UserError: The message says what is allowed.
        """
        if self.kind not in FORMATS:
            raise UserError(f"--format is {self.kind!r}; allowed are {', '.join(FORMATS)}")
        if self.out.suffix != SUFFIXES[self.kind]:
            raise UserError(f"--out is {self.out}; the name of a file of {self.kind} ends in {SUFFIXES[self.kind]}")
        check_file(self.out, "--out")
        weights = beside(self.out, self.kind)
        if weights is not None and weights.exists():
            check_file(weights, "--out")
            if not self.out.exists():  # else both are of an export that is written anew
                raise UserError(f"--out {self.out} would overwrite {weights}, which no export wrote: name another file")
        if self.dtype not in DTYPES:
            raise UserError(f"--dtype is {self.dtype!r}; allowed are {', '.join(DTYPES)}")
        if self.dtype == "bfloat16" and self.kind != "pt2":
            raise UserError(
                f"--dtype bfloat16 is for pt2 alone, got --format {self.kind}: onnxruntime has no convolution in it"
            )
        if self.opset is not None and self.kind == "pt2":
            raise UserError("--opset is for onnx and openvino: a pt2 file has no ONNX operators")
        if self.size is not None and self.dynamic:
            raise UserError("--size and --dynamic exclude one another: the one fixes height and width, the other none")
        if self.most_lost is not None:
            if self.calibration is None:
                raise UserError("--max-drop is a limit for --int8, which is not asked for")
            if not np.isfinite(self.most_lost):
                raise UserError(f"--max-drop is {self.most_lost}, it takes points of the telling figure, such as 0.5")
            if self.judge is None:
                raise UserError("--max-drop needs a test set to judge by: name the config instead of the model alone")
        if self.calibration is not None:
            check_calibration(self.calibration, self.kind, self.dtype)
        check_opset(self.opset)


def export(subject: Subject, settings: Settings, tell: Callable[[str], None] = print) -> List[Path]:
    """Writes a file, runs it on pictures, compares it with the model, and only then gives it its name.

    Args:
        subject: The model.
        settings: What is asked for.
        tell: Takes lines for people.

    Returns:
        The files that belong together, the one that is opened first.

    Raises:
        UserError: The model cannot be exported so, or the file does not compute what the model does.
    """
    settings.check()
    if settings.dynamic and subject.fixed:
        raise UserError(f"--dynamic: {subject.fixed}")
    out = settings.out
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.stem}.")
    except OSError as error:  # of file systems that let nobody write whatever their folders' modes say
        raise UserError(f"--out {out} cannot be written: {error.strerror}") from error
    with scratch as folder:
        files = _Export(subject, settings, Path(folder), tell).write()
        placed = []
        for file in reversed(files):  # the one that is opened first comes last
            placed.append(out.with_name(file.name))
            os.replace(file, placed[-1])
    megabytes = sum(file.stat().st_size for file in placed) / 2**20
    tell(f"written: {out} ({megabytes:.1f} MiB)")
    return placed[::-1]


def library_version() -> str:
    """Name and version of this library, as a file notes it."""
    from spectral_backbones import __version__

    return f"spectral-backbones {__version__}"


def check_loss(
    before: Dict[str, Any], after: Dict[str, Any], most_lost: Optional[float], tell: Callable[[str], None]
) -> None:
    """Tells figures on a test set.

    Args:
        before: Of floats.
        after: Of eight bits. A detector that finds nothing has no figures, and earns none.
        most_lost: See `Settings`.
        tell: Takes lines for people.

    Raises:
        UserError: More is lost, or there is no figure to limit.
    """
    after = {name: after.get(name, 0.0) for name in before}
    for name, figure in figures.known(before):
        tell(f"on the test set: {figure.show(before[name])} in float32, {figure.show(after[name])} in int8")
    if most_lost is None:
        return
    telling = figures.telling(before)
    figure = telling and figures.figure_of(telling)
    if figure is None or figure.lacks(before[telling]):
        raise UserError("--max-drop needs a figure to limit: there is no test set, or it gives none")
    lost = figure.scale * (before[telling] - after[telling])
    if not lost <= most_lost:
        raise UserError(f"int8 costs {lost:.2f} points of {figure.name}, --max-drop is {most_lost}")


class _Export:
    """One export, in a folder that is removed with all that did not become the file."""

    def __init__(self, subject: Subject, settings: Settings, folder: Path, tell: Callable[[str], None]) -> None:
        self.subject, self.settings, self.folder, self.tell = subject, settings, folder, tell
        self.size = settings.size or subject.size
        self.photos = find_photos(settings.photos, subject.channels, folder)
        self.dynamic = [*(["batch"] if settings.batch is None else [])]
        self.dynamic += ["height", "width"] if settings.dynamic else []
        # Of a batch of one torch would take the number for fixed.
        self.count = settings.batch or 2

    def write(self) -> List[Path]:
        """Writes and compares; returns the files."""
        settings, subject = self.settings, self.subject
        images = self.images(self.size, CHECKED)
        example = self.images(self.size, self.count)
        graph = subject.graph.eval()
        metadata = subject.describe(None if settings.dynamic else self.size) | {
            "library": library_version(),
            "outputs": list(subject.outputs),
            "images": {
                "dtype": str(subject.dtype).removeprefix("torch."),
                "shape": shape_of(example, self.dynamic),
                "channel_order": "RGB" if subject.channels == 3 else None,
            },
            "dtype": settings.dtype,
        }
        expected = {self.size: self.eager(images)}
        self.check("graph", self.run_graph(images), expected[self.size])
        is_half = settings.dtype != "float32"
        if is_half:
            graph.to(DTYPES[settings.dtype])
            expected = {self.size: self.run_graph(images)}
        if settings.dynamic:
            self.tell("recording a graph for any height and width: of large models this takes some minutes")
        program = trace(graph, example, self.dynamic)
        opset = check_opset(settings.opset)
        kind = "onnx" if settings.calibration else settings.kind
        path = self.folder / f"{settings.out.stem}{SUFFIXES[kind]}"
        files = write(program, path, kind, subject.outputs, metadata, opset)
        exported = open_program(path)
        for size in self.sizes():
            images = self.images(size, CHECKED)
            if size not in expected:
                expected[size] = self.run_graph(images) if is_half else self.eager(images)
            self.check(f"{settings.kind} at {size[0]}x{size[1]}", exported(images.numpy()), expected[size])
        if settings.calibration:
            files = self.quantise(path, expected)
        return files

    def sizes(self) -> List[Size]:
        """The size of the example, and of a file that takes any a larger and a smaller one."""
        height, width = self.size
        others = [(height * 5 // 4, width * 3 // 2), (height * 4 // 5, width * 2 // 3)]
        return [self.size, *(others if self.settings.dynamic else [])]

    def images(self, size: Size, count: int) -> torch.Tensor:
        """Real pictures (count, C, H, W)."""
        return torch.from_numpy(batch_of(self.subject, self.photos, size, count))

    @torch.no_grad()
    def eager(self, images: torch.Tensor) -> Arrays:
        """What the model itself predicts.

        Raises:
            UserError: It cannot, which so far can only be because of the size.
        """
        try:
            return self.subject.eager(images)
        except (ValueError, RuntimeError, AssertionError) as error:  # as models refuse a size
            height, width = images.shape[-2:]
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise UserError(f"the model cannot take pictures of {height}x{width}: {reason}") from error

    @torch.no_grad()
    def run_graph(self, images: torch.Tensor) -> Arrays:
        """What the graph computes in torch."""
        found = self.subject.graph(images)
        return {name: output.numpy() for name, output in zip(self.subject.outputs, found)}

    def check(self, what: str, found: Arrays, expected: Arrays) -> None:
        """Prints how far outputs are from what is expected.

        Raises:
            UserError: They are off.
        """
        factor = 1 if self.settings.dtype == "float32" or what == "graph" else HALF_FACTOR
        result = compare(found, expected, factor)
        self.tell(f"{what}, {len(next(iter(found.values())))} pictures: {'; '.join(result.figures)}")
        if not result.agrees:
            raise UserError(f"the exported {what} does not compute what the model does: {'; '.join(result.failures)}")

    def quantise(self, path: Path, expected: Dict[Size, Arrays]) -> List[Path]:
        """Quantises a file of floats; returns the files of the format that is asked for.

        Raises:
            UserError: It costs more than is allowed.
        """
        settings = self.settings
        before = settings.judge(path) if settings.judge else {}
        folder = self.folder / "int8"
        folder.mkdir()
        files = quantise(path, folder / settings.out.name, self.subject, settings.calibration, self.size)
        program = open_program(files[0])
        for size in self.sizes():
            result = compare(program(self.images(size, CHECKED).numpy()), expected[size])
            place = f"int8 at {size[0]}x{size[1]} against the model, which no limit holds"
            self.tell(f"{place}: {'; '.join(result.figures)}")
        after = settings.judge(files[0]) if settings.judge else {}
        check_loss(before, after, settings.most_lost, self.tell)
        return files
