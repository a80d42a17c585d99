_base_ = "./ffnet-2_upernet_8xb2-160k_ade20k-512x512.py"
# Published: 49.6 mIoU, 50.2 with several scales; 80 M parameters, 1010 G at 512x2048; from distilled weights
model = dict(
    backbone=dict(name="ffnet_3", drop_path_rate=0.3),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384),
)
optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=0.97))  # theirs: 0.9 for 12 layers; here each block is one
