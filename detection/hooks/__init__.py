"""What only the training of detectors needs, each idea a hook of its own. Importing it brings in mmdet."""

from .. import annotations, toolbox  # noqa: F401  quietly, before anything else brings it in
from .check import CheckDetectorHook
from .describe import DescribeDetectorHook
from .detections import DetectionsHook

annotations.install()

__all__ = ["CheckDetectorHook", "DescribeDetectorHook", "DetectionsHook"]
