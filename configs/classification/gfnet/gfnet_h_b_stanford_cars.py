_base_ = [
    "../../_base_/classification/stanford_cars.py",
    "../../_base_/classification/transfer_1000e.py",
]
model = dict(name="gfnet_h_b", num_classes=196, img_size=224)
