# What every classification run shares; a schedule builds on it.
custom_imports = dict(imports="spectral_backbones.classification", allow_failed_imports=False)
default_scope = "mmengine"

model = dict(type="TimmClassifier", num_classes=None, img_size=None)  # from the data, from the model

train_cfg = dict(by_epoch=True, val_interval=1)  # a schedule sets max_epochs
val_cfg = dict()
test_cfg = dict()
val_evaluator = dict(type="Accuracy")
test_evaluator = val_evaluator

fsdp = False  # True splits weights and optimiser over torchrun's processes, for models that one GPU cannot hold
randomness = dict(seed=0)
default_hooks = dict(
    logger=dict(type="LoggerHook", interval=50),
    checkpoint=dict(type="KeepCheckpointsHook", keep=2),
    seed=dict(type="IterSeedHook"),
    loss_guard=dict(type="LossGuardHook"),
    sync_buffers=dict(type="SyncBuffersHook"),  # batch norm's averages, over the processes
    curve=dict(type="CurveHook"),
    outcome=dict(type="OutcomeHook"),
    describe=dict(type="DescribeClassifierHook"),
    console=dict(type="ConsoleHook"),
)
