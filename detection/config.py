"""Checking the config of a detector, and filling in what makes its runs repeatable."""

from mmengine.config import Config

from engine.errors import UserError

from . import hooks  # noqa: F401  registers them


def complete(cfg: Config) -> Config:
    """Checks a config, and lets samples be drawn so that a resumed run goes on as the first would have.

    Raises:
        UserError: It does not import this library.
    """
    imports = (cfg.get("custom_imports") or {}).get("imports", [])
    imports = [imports] if isinstance(imports, str) else imports
    if not any(name.split(".")[0] == "detection" for name in imports):
        raise UserError(
            f"{cfg.filename} does not import this library, so its backbones are not known: add "
            'custom_imports = dict(imports=["detection"], allow_failed_imports=False)'
        )
    loader = cfg.get("train_dataloader")
    # The same shuffling, but augmentation is seeded sample by sample and not worker by worker.
    if loader and loader.sampler.type == "DefaultSampler" and loader.sampler.get("shuffle", True):
        loader.sampler = dict(type="EpochSampler")
    cfg.custom_hooks = [*cfg.get("custom_hooks", []), dict(type="CheckDetectorHook")]
    return cfg
