"""What users choose most often of a config: the model is a timm model, as a classifier's is."""

from spectral_backbones.classification.choices import set_model, set_size, set_weights

__all__ = ["set_model", "set_size", "set_weights"]
