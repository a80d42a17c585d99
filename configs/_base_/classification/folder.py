# A user's own pictures: see classification.datasets.ImageFolder for the two layouts it takes.
_base_ = ["images.py"]

data_root = "data/my_images"
train_dataloader = dict(dataset=dict(type="ImageFolder", root=data_root))
val_dataloader = dict(dataset=dict(type="ImageFolder", root=data_root, split="val"))
test_dataloader = val_dataloader
