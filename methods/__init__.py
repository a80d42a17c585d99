"""Methods of training, a file each, for any timm model where their definition allows: they know torch, timm and the
backbones.

Tasks and configs put them to use; nothing here depends on a runner.
"""
