_base_ = [
    "mmdet::_base_/models/cascade-mask-rcnn_r50_fpn.py",
    "./coco_instance_ms.py",
    "./adamw_3x.py",
    "./runtime.py",
]
model = dict(backbone=dict(_delete_=True, type="TimmBackbone"))
