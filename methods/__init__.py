"""Methods of training, a file each, for any timm model where their definition allows: they know torch and timm alone.

Tasks and configs put them to use; nothing here depends on a runner.
"""
