# A user's own pictures: docs/data.md tells which layouts are recognised.
_base_ = ["images.py"]

data_root = "data/my_images"
train_dataloader = dict(dataset=dict(type="ImageFolder", root=data_root))
val_dataloader = dict(dataset=dict(type="ImageFolder", root=data_root, split="val"))
test_dataloader = dict(dataset=dict(type="ImageFolder", root=data_root, split="test"))  # val where there is none
