"""Folders of images to the zips that `tenshot bench` reads, and whether they are the published ones, pixel by pixel.

    python benchmarks/data/pack.py pack FOLDER OUT.zip     shots/ and heldout/ as lossless WebP, always the same bytes
    python benchmarks/data/pack.py check DATA              every <domain>.zip in DATA against domains.json
    python benchmarks/data/pack.py digest ZIP...           count and sha256 of each part

The sha256 is taken over the decoded RGB pixels of a part's images in order of name, so it holds whatever the format.
"""

import argparse
import hashlib
import io
import json
import zipfile
from pathlib import Path

from PIL import Image

PARTS = ("shots", "heldout")
PUBLISHED = Path(__file__).with_name("domains.json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("pack")
    verb.add_argument("folder", type=Path)
    verb.add_argument("out", type=Path)
    verbs.add_parser("check").add_argument("data", type=Path)
    verbs.add_parser("digest").add_argument("zips", type=Path, nargs="+")
    options = parser.parse_args()
    if options.verb == "pack":
        pack(options.folder, options.out)
    elif options.verb == "digest":
        for path in options.zips:
            print(json.dumps({path.stem: digest(path)}))
    else:
        raise SystemExit(check(options.data))


def pack(folder: Path, out: Path) -> None:
    """Every image below a part, under its own name, in order, without times."""
    with zipfile.ZipFile(out, "w") as archive:
        for part in PARTS:
            for path in sorted((folder / part).glob("*.png")):
                buffer = io.BytesIO()
                Image.open(path).convert("RGB").save(buffer, "WEBP", lossless=True, quality=100, method=6)
                archive.writestr(zipfile.ZipInfo(f"{part}/{path.stem}.webp"), buffer.getvalue())


def digest(path: Path) -> dict[str, list]:
    """By part: how many images there are, and the sha256 of their pixels."""
    found = {}
    with zipfile.ZipFile(path) as archive:
        for part in PARTS:
            names = sorted(name for name in archive.namelist() if name.startswith(f"{part}/"))
            pixels = hashlib.sha256()
            for name in names:
                pixels.update(Image.open(io.BytesIO(archive.read(name))).convert("RGB").tobytes())
            if names:
                found[part] = [len(names), pixels.hexdigest()]
    return found


def check(data: Path) -> int:
    """Say for each published domain whether it is there and the same; 1 if one is not."""
    faults = 0
    for name, published in json.loads(PUBLISHED.read_text(encoding="utf-8")).items():
        path = data / f"{name}.zip"
        verdict = "missing" if not path.exists() else "the same" if digest(path) == published else "DIFFERENT"
        faults += verdict != "the same"
        print(f"{name:<16}{verdict}")
    return int(faults > 0)


if __name__ == "__main__":
    main()
