# What every detector shares beside its data and schedule: mmdet's own runtime, with this library's watch over a run.
_base_ = "mmdet::_base_/default_runtime.py"
custom_imports = dict(
    imports=["spectral_backbones.detection", "spectral_backbones.detection.hooks"], allow_failed_imports=False
)

randomness = dict(seed=0)
default_hooks = dict(
    checkpoint=dict(_delete_=True, type="KeepCheckpointsHook", keep=2),
    visualization=dict(_delete_=True, type="DetectionsHook"),
    describe=dict(type="DescribeDetectorHook"),
    seed=dict(type="IterSeedHook"),
    loss_guard=dict(type="LossGuardHook"),
    sync_buffers=dict(type="SyncBuffersHook"),  # batch norm's averages, over the processes
    curve=dict(type="CurveHook"),
    console=dict(type="ConsoleHook"),
)
