"""How mmcv's operators read a map between its cells."""

import math


def value(image, y, x):
    """Value of a map (H, W) at a point: held at the border for one cell, zero beyond."""
    height, width = image.shape
    if not (-1 <= y <= height and -1 <= x <= width):
        return image.new_zeros(())
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    top, left = math.floor(y), math.floor(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    upper = image[top, left] * (left + 1 - x) + image[top, right] * (x - left)
    lower = image[bottom, left] * (left + 1 - x) + image[bottom, right] * (x - left)
    return upper * (top + 1 - y) + lower * (y - top)
