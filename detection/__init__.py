"""Backbones in mmdet and detectron2. Importing it supplies mmcv's operators where no compiled mmcv is installed."""

from . import mmcv_ops

mmcv_ops.install()
