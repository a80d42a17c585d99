# VICReg's own recipe (arXiv 2105.04906, facebookresearch/vicreg): LARS, 0.3 at a batch of 256, 10 epochs of warm-up
# from 0, a cosine to a thousandth, weight decay 1e-6, an expander 8192 wide, weights 25, 25 and 1.
_base_ = ["runtime.py"]

optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="LARS", lr=0.3, momentum=0.9, weight_decay=1e-6))
auto_scale_lr = dict(enable=True, base_batch_size=256)  # the learning rate follows batch size and processes
param_scheduler = [dict(type="VICRegLR", ramp=10, floor=1e-3, convert_to_iter_based=True)]
train_cfg = dict(max_epochs=100)
model = dict(expander=(8192, 8192, 8192), loss=dict(invariance=25.0, variance=25.0, covariance=1.0))
