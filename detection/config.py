"""Checking the config of a detector, and filling in what makes its runs repeatable."""

from mmengine.config import Config

from spectral_backbones.engine import config

from . import hooks  # noqa: F401  registers them


def complete(cfg: Config) -> Config:
    """Checks a config, see `engine.config.complete`.

    Raises:
        UserError: It does not import this library, or its schedule does not fit.
    """
    return config.complete(cfg, "detection", "CheckDetectorHook")
