# ImageNet-1k as it is published, imagenet/train/<class>/*.JPEG and imagenet/val/<class>/*.JPEG, for
#   spectral distill deit_small_patch16_224 spectformer_xs imagenet_distilled
# Twelve epochs, whose tokens are about as many as MOHAWK's: one of alignment, eleven of distillation. The numbers are
# ours, and nobody has run them yet.
_base_ = ["../../_base_/classification/folder.py", "../../_base_/classification/runtime.py"]

data_root = "data/imagenet"
model = dict(name="spectformer_xs", img_size=224)
train_dataloader = dict(batch_size=128, num_workers=8, dataset=dict(root=data_root))
val_dataloader = dict(num_workers=8, dataset=dict(root=data_root))
test_dataloader = dict(num_workers=8, dataset=dict(root=data_root))
optim_wrapper = dict(
    type="OptimWrapper",
    constructor="TimmOptimWrapperConstructor",
    optimizer=dict(opt="adamw", lr=5e-4, weight_decay=0.05),
    clip_grad=dict(max_norm=1.0),
)
auto_scale_lr = dict(enable=True, base_batch_size=1024)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, begin=0, end=0.5, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", eta_min_ratio=0.01, begin=0.5, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=12)
distillation = dict(images=4096, judged=5000, alignment=1 / 12)
