# Stanford Cars, 8,144 training and 8,041 test pictures.
_base_ = ["images.py"]

data_root = "data/stanford_cars"
train_dataloader = dict(dataset=dict(type="StanfordCars", root=data_root))
val_dataloader = dict(dataset=dict(type="StanfordCars", root=data_root))
test_dataloader = val_dataloader
