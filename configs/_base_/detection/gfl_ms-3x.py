_base_ = [
    "./gfl.py",
    "./coco_detection_ms.py",
    "./adamw_3x.py",
    "./runtime.py",
]
model = dict(backbone=dict(type="TimmBackbone"))
