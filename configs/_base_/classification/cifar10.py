# CIFAR-10, 50,000 training and 10,000 test pictures of 32x32, enlarged to 224x224.
_base_ = ["images.py"]

data_root = "data/cifar10"
train_dataloader = dict(dataset=dict(type="CIFAR10", root=data_root))
val_dataloader = dict(dataset=dict(type="CIFAR10", root=data_root))
test_dataloader = val_dataloader
