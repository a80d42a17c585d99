# Mask R-CNN over models of one resolution, whose one map a simple pyramid brings to strides 4 to 64.
_base_ = "./mask-rcnn_1x.py"
model = dict(
    neck=dict(
        _delete_=True,
        type="SimpleFeaturePyramid",
        out_channels=256,
        in_stride=16,
        strides=[4, 8, 16, 32],
        num_outs=5,
    )
)
# ViTDet's for twelve blocks; 0.8 for more
optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=0.7))
