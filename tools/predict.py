"""Classifies pictures with a trained checkpoint or with a timm model by name.

python tools/predict.py CHECKPOINT_OR_NAME IMAGE_OR_FOLDER... [--topk K] [--out-dir D]
"""

import argparse
import sys
from pathlib import Path
from typing import List, Optional, Tuple

import backbones  # noqa: F401  registers the models
from classification import UserError
from classification.pictures import draw_prediction
from classification.predictor import Predictor, find_images


def main(arguments: Optional[List[str]] = None) -> List[List[Tuple[str, float]]]:
    """Classifies; prints and returns (class, probability) for each picture, the most probable first."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a checkpoint, or the name of a timm model that has weights")
    parser.add_argument("images", nargs="+", help="picture files, or folders of them")
    parser.add_argument("--name", help="the timm model that an official checkpoint belongs to; ours know theirs")
    parser.add_argument("--topk", type=int, default=5, help="classes a picture")
    parser.add_argument("--out-dir", default="predictions", help="where the annotated pictures go")
    args = parser.parse_args(arguments)

    predictor = Predictor.load(args.model, args.name)
    out_dir = Path(args.out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    results = []
    for number, path in enumerate(find_images(args.images)):
        image, scores = predictor(path, args.topk)
        results.append(scores)
        print(f"{path}: " + ", ".join(f"{name} {100 * score:.1f} %" for name, score in scores))
        # The number keeps apart files of one name from several folders.
        draw_prediction(image, scores, out_dir / f"{number:03d}_{path.stem}.png")
    print(f"{len(results)} annotated pictures: {out_dir}")
    return results


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
