# Oxford Flowers-102. As in the papers, train and val are trained on (2,040 pictures) and test is reported (6,149).
_base_ = ["images.py"]

data_root = "data/flowers102"
train_dataloader = dict(dataset=dict(type="Flowers102", root=data_root, split="train+val"))
val_dataloader = dict(dataset=dict(type="Flowers102", root=data_root))
test_dataloader = val_dataloader
