# SpecDETR as its authors train it for San Diego: 180 bands divided by 10000, and corners in whole pixels.
_base_ = "./specdetr_100e_spod.py"
classes = ("Airport",)
data_root = "data/SanDiego/"
load = dict(type="LoadBands", bands=180, divisor=10000.0)
data = dict(data_root=data_root, metainfo=dict(classes=classes))
model = dict(
    propose_globally=True,
    backbone=dict(in_channels=180),
    bbox_head=dict(num_classes=1, round_boxes=True),
)
train_dataloader = dict(dataset=dict(**data, pipeline=[load, *_base_.train_pipeline[1:]]))
val_dataloader = dict(batch_size=4, dataset=dict(**data, pipeline=[load, *_base_.test_pipeline[1:]]))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + "annotations/test.json")
test_evaluator = val_evaluator
train_cfg = dict(max_epochs=12, val_interval=1)
param_scheduler = [dict(type="MultiStepLR", by_epoch=True, begin=0, end=12, milestones=[10], gamma=0.1)]
