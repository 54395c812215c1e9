"""One picture of what the methods of a matrix made of the same latents: shots, source, and a row for each method.

    python benchmarks/quality/sheet.py benchmarks/quality/table.json --domain bottts --data DATA --out OUT.png

The runs are those that `tenshot bench` left in `--work`. Latents are those of the seeds 0, 1, ..., not chosen.
"""

import argparse
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

from tenshot.bench.specs import read_spec
from tenshot.bench.work import Places
from tenshot.data import load_images
from tenshot.models import load_model
from tenshot.sampling import generate
from tenshot.sheets import grid

MARGIN, GAP, CAPTION = 12, 6, 96


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spec", type=Path)
    parser.add_argument("--domain", required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/bench"))
    parser.add_argument("--columns", type=int, default=10)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    places = Places(options.data.resolve(), options.work.resolve(), Path())
    jobs = [j for j in read_spec(options.spec).jobs if (j.domain, j.config.seed) == (options.domain, options.seed)]
    if not jobs:
        parser.error(f"{options.spec} has no run of domain {options.domain} and seed {options.seed}")
    seeds = range(options.columns)
    source = load_model(jobs[0].config.source)
    rows = [("ten images", load_images(places.data / jobs[0].config.shots, source.resolution, limit=len(seeds)).images)]
    rows.append(("source", torch.cat(list(generate(source.generator, seeds)))))
    for job in jobs:
        model = load_model(places.run(job) / "model.safetensors")
        rows.append((job.variant, torch.cat(list(generate(model.generator, seeds)))))
    stacked(rows).save(options.out, optimize=True)


def stacked(rows: list[tuple[str, torch.Tensor]]) -> Image.Image:
    """Rows of images `uint8 [n 3 r r]` under each other, each with its name on the left."""
    strips = [(name, grid(images, len(images))) for name, images in rows]
    width = CAPTION + max(strip.width for _, strip in strips) + 2 * MARGIN
    paper = Image.new("RGB", (width, sum(s.height + GAP for _, s in strips) - GAP + 2 * MARGIN), "white")
    draw, font, y = ImageDraw.Draw(paper), ImageFont.load_default(size=15), MARGIN
    for name, strip in strips:
        draw.text((MARGIN, y + strip.height // 2), name, fill=(60, 60, 60), font=font, anchor="lm")
        paper.paste(strip, (MARGIN + CAPTION, y))
        y += strip.height + GAP
    return paper


if __name__ == "__main__":
    main()
