_base_ = [
    "../../_base_/classification/cifar10.py",
    "../../_base_/classification/transfer_1000e.py",
]
model = dict(name="gfnet_h_b", num_classes=10, img_size=224)
