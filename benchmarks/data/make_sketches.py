"""Pencil sketches of face images (OpenCV's pencilSketch): a domain near the faces.

    pip install opencv-python-headless
    python make_sketches.py FACES OUT FIRST LAST [--shots 10] [--start 0]

Of the images in FACES whose numbers (the file names) are in [FIRST, LAST), in order, the first `shots` go to
OUT/shots, the others to OUT/heldout; `start` is the number of the first sketch in shots. The domain: 4096 5106. The 90
further shots of the pool: 5106 5196 --shots 90 --start 10.
"""

import argparse
from pathlib import Path

import cv2

STRENGTH = {"sigma_s": 30, "sigma_r": 0.09, "shade_factor": 0.045}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("faces", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("first", type=int)
    parser.add_argument("last", type=int)
    parser.add_argument("--shots", type=int, default=10)
    parser.add_argument("--start", type=int, default=0)
    options = parser.parse_args()
    numbered = sorted((int(path.stem), path) for path in options.faces.rglob("*.jpg"))
    chosen = [path for number, path in numbered if options.first <= number < options.last]
    for i, path in enumerate(chosen):
        is_shot = i < options.shots
        number = options.start + i if is_shot else i - options.shots
        target = options.out / ("shots" if is_shot else "heldout") / f"{number:05d}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        grey, _ = cv2.pencilSketch(cv2.imread(str(path)), **STRENGTH)
        cv2.imwrite(str(target), cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR))


if __name__ == "__main__":
    main()
