_base_ = "./ffnet-2_upernet_8xb2-160k_ade20k-512x512.py"
# Published: 50.7 mIoU, 51.7 with several scales; 113 M parameters, 1158 G at 512x2048; from weights of 384 pixels
model = dict(
    backbone=dict(name="ffnet_4", drop_path_rate=0.3),
    decode_head=dict(in_channels=[128, 256, 512, 1024]),
    auxiliary_head=dict(in_channels=512),
)
optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=0.97))  # theirs: 0.9 for 12 layers; here each block is one
