# SpecDETR as its authors train it for MUUFL Gulfport: 72 bands divided by 10000, and corners in whole pixels.
_base_ = "./specdetr_100e_spod.py"
classes = ("Brown", "DarkGreen", "PeaGreen", "FauxVineyardGreen")
data_root = "data/MUUFLGulfport/"
load = dict(type="LoadBands", bands=72, divisor=10000.0)
data = dict(data_root=data_root, metainfo=dict(classes=classes))
model = dict(
    propose_globally=True,
    backbone=dict(in_channels=72),
    bbox_head=dict(num_classes=4, round_boxes=True),
)
train_dataloader = dict(dataset=dict(**data, pipeline=[load, *_base_.train_pipeline[1:]]))
val_dataloader = dict(batch_size=4, dataset=dict(**data, pipeline=[load, *_base_.test_pipeline[1:]]))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + "annotations/test.json")
test_evaluator = val_evaluator
train_cfg = dict(max_epochs=24, val_interval=12)
param_scheduler = [dict(type="MultiStepLR", by_epoch=True, begin=0, end=24, milestones=[20], gamma=0.1)]
