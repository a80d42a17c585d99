"""Brings in mmseg without what it prints and warns of: optional data sets that it lacks."""

import contextlib
import io
import warnings

with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import mmseg.datasets
    import mmseg.engine
    import mmseg.evaluation
    import mmseg.models
    import mmseg.visualization

from spectral_backbones.toolboxes import loading  # noqa: F401  the reader of pictures registers itself

# What mmseg says whenever a loss is built, about the average that all published recipes use.
warnings.filterwarnings("ignore", message="Default ``avg_non_ignore`` is False")

__all__ = ["mmseg"]
