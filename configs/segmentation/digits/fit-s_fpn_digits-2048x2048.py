# The same with FIT-S as it is: to fine-tune a classifier by --weights, and to see what a step takes.
_base_ = "./fit-small_fpn_digits-2048x2048.py"
model = dict(
    backbone=dict(_delete_=True, type="TimmBackbone", name="fit_s", out_norm="final", img_size=2048, with_cp=True),
    neck=dict(in_channels=[384], out_channels=64),
    decode_head=dict(in_channels=[64, 64, 64], channels=64),
)
