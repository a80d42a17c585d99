# The demonstration with a tenth of the heads removed at random, the same ones of all pictures of a batch.
_base_ = ["../spectformer/spectformer_ti_digits.py"]
default_hooks = dict(heads=dict(type="DropHeadsHook", rate=0.1))
