_base_ = [
    "mmdet::_base_/models/retinanet_r50_fpn.py",
    "./coco_detection_ms_crop.py",
    "./adamw_1x.py",
    "./runtime.py",
]
model = dict(backbone=dict(_delete_=True, type="TimmBackbone"))
