# What every run without labels shares; a schedule builds on it.
custom_imports = dict(imports="spectral_backbones.pretraining", allow_failed_imports=False)
default_scope = "mmengine"
task = "pretraining"

model = dict(type="VICReg", img_size=None)  # from the model

train_cfg = dict(by_epoch=True, val_interval=1)  # a schedule sets max_epochs

randomness = dict(seed=0)
default_hooks = dict(
    logger=dict(type="LoggerHook", interval=50),
    checkpoint=dict(type="KeepCheckpointsHook", keep=2),
    seed=dict(type="IterSeedHook"),
    loss_guard=dict(type="LossGuardHook"),
    sync_buffers=dict(type="SyncBuffersHook"),  # batch norm's averages, over the processes
    curve=dict(type="EmbeddingsCurveHook"),
    describe=dict(type="DescribePretrainingHook"),
    console=dict(type="ConsoleHook"),
)
