_base_ = [
    "../../_base_/classification/flowers102.py",
    "../../_base_/classification/transfer_1000e.py",
]
model = dict(name="gfnet_xs", num_classes=102, img_size=224)
