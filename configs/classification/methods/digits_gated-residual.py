# The demonstration with GRU gates in place of the sums of its residual connections.
_base_ = ["../spectformer/spectformer_ti_digits.py"]
model = dict(kwargs=dict(residual="gru"))
