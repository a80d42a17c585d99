_base_ = [
    "../../_base_/classification/cifar100.py",
    "../../_base_/classification/transfer_1000e.py",
]
model = dict(name="spectformer_b", num_classes=100, img_size=224, kwargs=dict(drop_path_rate=0.25))
