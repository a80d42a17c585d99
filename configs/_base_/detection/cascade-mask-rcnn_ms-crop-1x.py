_base_ = [
    "./cascade-mask-rcnn.py",
    "./coco_instance_ms_crop.py",
    "./adamw_1x.py",
    "./runtime.py",
]
model = dict(backbone=dict(_delete_=True, type="TimmBackbone"))
