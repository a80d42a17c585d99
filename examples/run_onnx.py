"""Classifies, detects or segments with a file of `spectral export`. Needs onnxruntime and Pillow, and no torch.

python run_onnx.py FILE.onnx PICTURE...
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

FACTORS = {  # by which a picture of some width and height is scaled
    "shorter_side": lambda step, width, height: step["pixels"] / min(width, height),
    "within": lambda step, *sides: min(step["longer"] / max(sides), step["shorter"] / min(sides)),
    "fit": lambda step, width, height: min(step["width"] / width, step["height"] / height),
    "shrink": lambda step, width, height: min(step["width"] / width, step["height"] / height, 1),
    "cover": lambda step, width, height: max(step["width"] / width, step["height"] / height),
}


def prepared(image, step):
    if step["step"] in ("pad", "centre"):
        canvas = Image.new(image.mode, (step["width"], step["height"]), tuple(step["fill"][: len(image.getbands())]))
        middle = step["step"] == "centre"
        canvas.paste(image, [-middle * round((side - out) / 2) for out, side in zip(canvas.size, image.size)])
        return canvas
    size = (step.get("width"), step.get("height"))
    if step["step"] != "exact":
        size = [int(side * FACTORS[step["step"]](step, *image.size) + 0.5) for side in image.size]
    return image.resize(size, Image.Resampling[step["interpolation"].upper()])


session = onnxruntime.InferenceSession(sys.argv[1])
known = json.loads(session.get_modelmeta().custom_metadata_map["spectral_backbones"])
for path in sys.argv[2:]:
    image = ImageOps.exif_transpose(Image.open(path)).convert("L" if known["images"]["shape"][1] == 1 else "RGB")
    for step in known["resize"]:
        image = prepared(image, step)
    batch = [np.atleast_3d(image).transpose(2, 0, 1)] * (known["images"]["shape"][0] or 1)
    outputs = session.run(known["outputs"], {"images": np.stack(batch)})
    if known["task"] == "classification":
        found = [(place, outputs[0][0][place]) for place in outputs[0][0].argsort()[:-6:-1]]
    elif known["task"] == "detection":
        found = [(label, score, box) for box, score, label in zip(*(rows[0] for rows in outputs[:3])) if score > 0.3]
    else:
        found = [(label, np.mean(outputs[0] == label)) for label in np.unique(outputs[0])]
    for label, share, *box in found:
        print(f"{path}: {known['classes'][label]} {share:.3f}", *box)
