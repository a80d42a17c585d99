# What every run on volumes shares; training goes by iterations, a crop of each volume at a time.
custom_imports = dict(imports="spectral_backbones.volumes.training", allow_failed_imports=False)
default_scope = "mmengine"
task = "volumes"

model = dict(type="VolumeSegmenter", out_channels=None)  # from the data

val_cfg = dict()
test_cfg = dict()
val_evaluator = dict(type="VolumeMetric")
test_evaluator = val_evaluator

randomness = dict(seed=0)
default_hooks = dict(
    logger=dict(type="LoggerHook", interval=50, log_metric_by_epoch=False),
    checkpoint=dict(type="KeepCheckpointsHook", keep=2, interval=1000),
    seed=dict(type="IterSeedHook"),
    loss_guard=dict(type="LossGuardHook"),
    curve=dict(type="CurveHook"),
    slices=dict(type="SlicesHook"),
    describe=dict(type="DescribeVolumesHook"),
    console=dict(type="ConsoleHook"),
)
log_processor = dict(type="LogProcessor", window_size=50, by_epoch=False)
