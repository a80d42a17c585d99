_base_ = [
    "mmdet::_base_/models/mask-rcnn_r50_fpn.py",
    "mmdet::_base_/datasets/coco_instance.py",
    "./adamw_1x.py",
    "./runtime.py",
]
model = dict(backbone=dict(_delete_=True, type="TimmBackbone"))
