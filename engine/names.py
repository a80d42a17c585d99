"""Names for people."""

from typing import Any, Dict


def model_name(model: Dict[str, Any]) -> str:
    """Names the model of a config: a timm model, or a detector or segmenter and what it stands on."""
    backbone = model.get("backbone")
    if backbone:
        return f"{model['type']} on {backbone.get('name', backbone['type'])}"
    return model.get("name", model["type"])
