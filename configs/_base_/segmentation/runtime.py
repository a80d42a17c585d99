# What every segmentation run shares.
custom_imports = dict(
    imports=["spectral_backbones.segmentation", "spectral_backbones.segmentation.hooks"], allow_failed_imports=False
)
default_scope = "mmseg"

randomness = dict(seed=0)
default_hooks = dict(
    timer=dict(type="IterTimerHook"),
    logger=dict(type="LoggerHook", interval=50, log_metric_by_epoch=False),
    param_scheduler=dict(type="ParamSchedulerHook"),
    sampler_seed=dict(type="DistSamplerSeedHook"),
    checkpoint=dict(type="KeepCheckpointsHook", keep=2, interval=4000),
    seed=dict(type="IterSeedHook"),
    loss_guard=dict(type="LossGuardHook"),
    sync_buffers=dict(type="SyncBuffersHook"),  # batch norm's averages, over the processes
    curve=dict(type="CurveHook"),
    visualization=dict(type="SegmentationsHook"),
    describe=dict(type="DescribeSegmenterHook"),
    console=dict(type="ConsoleHook"),
)
env_cfg = dict(
    cudnn_benchmark=True,  # crops are of one size
    mp_cfg=dict(mp_start_method="fork", opencv_num_threads=0),
    dist_cfg=dict(backend="nccl"),
)
vis_backends = [dict(type="LocalVisBackend")]
visualizer = dict(type="SegLocalVisualizer", vis_backends=vis_backends, name="visualizer")
log_processor = dict(type="LogProcessor", window_size=50, by_epoch=False)
log_level = "INFO"
load_from = None
resume = False
