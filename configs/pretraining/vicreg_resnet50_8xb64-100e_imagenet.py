# The recipe for one machine of the official README: 100 epochs with a total batch of 512.
_base_ = [
    "../_base_/pretraining/views.py",
    "../_base_/pretraining/neighbours.py",
    "../_base_/pretraining/vicreg_100e.py",
]
model = dict(name="resnet50")
data_root = "data/imagenet"
_train = dict(type="ImageFolder", root=data_root, split="train")
train_dataloader = dict(dataset=dict(type="Unlabelled", dataset=_train))
val_dataloader = dict(
    dataset=dict(
        per_class=50,  # neighbours among all of ImageNet would cost as much as an epoch
        datasets=[_train, dict(type="ImageFolder", root=data_root, split="val")],
    )
)
test_dataloader = val_dataloader
train_cfg = dict(val_interval=10)
