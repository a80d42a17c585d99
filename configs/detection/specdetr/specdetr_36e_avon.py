# SpecDETR as its authors train it for Avon: 360 bands divided by 5000, and corners in whole pixels.
_base_ = "./specdetr_100e_spod.py"
classes = ("BlueTrap", "BrownTrap")
data_root = "data/Avon/"
load = dict(type="LoadBands", bands=360, divisor=5000.0)
data = dict(data_root=data_root, metainfo=dict(classes=classes))
model = dict(
    propose_globally=True,
    backbone=dict(in_channels=360),
    bbox_head=dict(num_classes=2, round_boxes=True),
)
train_dataloader = dict(dataset=dict(**data, pipeline=[load, *_base_.train_pipeline[1:]]))
val_dataloader = dict(batch_size=4, dataset=dict(**data, pipeline=[load, *_base_.test_pipeline[1:]]))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + "annotations/test.json")
test_evaluator = val_evaluator
train_cfg = dict(max_epochs=36, val_interval=12)
param_scheduler = [dict(type="MultiStepLR", by_epoch=True, begin=0, end=36, milestones=[30], gamma=0.1)]
