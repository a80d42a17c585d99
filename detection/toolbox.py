"""Brings in mmdet without what it prints and warns of: optional data sets and metrics that it lacks."""

import contextlib
import io
import warnings

with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import mmdet.datasets
    import mmdet.engine
    import mmdet.evaluation
    import mmdet.models
    import mmdet.visualization

from spectral_backbones.toolboxes import loading  # noqa: F401  the reader of pictures registers itself

__all__ = ["mmdet"]
