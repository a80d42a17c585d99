_base_ = [
    "mmdet::_base_/models/retinanet_r50_fpn.py",
    "mmdet::_base_/datasets/coco_detection.py",
    "./adamw_1x.py",
    "./runtime.py",
]
model = dict(backbone=dict(_delete_=True, type="TimmBackbone"))
