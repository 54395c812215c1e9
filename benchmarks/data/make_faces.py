"""Synthetic faces from the generator in the PyPI package random-face (MobileStyleGAN, made from StyleGAN2 and FFHQ).

    pip install --no-deps random-face==2021.7.21.1 && pip install openvino numpy pillow
    python make_faces.py OUT START COUNT [--skip N]

Writes OUT/img/NN/NNNNNN.jpg, 1024 px reduced to 128, for the numbers from START + N to START + COUNT - 1; beside them
the latents OUT/w_NNNNNN.npy (float16, truncation 0.8) in blocks of 4,096 from START on, and their mean OUT/w_mean.npy.
Latents depend on the block, so START is part of what makes a face.
"""

import argparse
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import openvino
from PIL import Image

BLOCK = 4096
TRUNCATION = 0.8
SIDE = 128  # px
EXACT = {"INFERENCE_PRECISION_HINT": "f32"}  # processors with bfloat16 would otherwise draw other faces
_SEED_OF_MEAN, _SEED_OF_FIRST_BLOCK = 12345, 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("start", type=int)
    parser.add_argument("count", type=int)
    parser.add_argument("--skip", type=int, default=0)
    options = parser.parse_args()
    out, end = options.out, options.start + options.count
    mapping, synthesis = networks()
    for block in range(options.start, end, BLOCK):
        w = block_of_latents(mapping, out, block)
        for number in range(max(block, options.start + options.skip), min(block + BLOCK, end)):
            path = out / "img" / f"{number // 1000:02d}" / f"{number:06d}.jpg"
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                face(synthesis, w[number - block]).save(path, quality=95)


def weights() -> Path:
    """The folder with the networks of random-face."""
    spec = find_spec("random_face")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("random-face is not installed: pip install --no-deps random-face")
    return Path(spec.submodule_search_locations[0]) / "data"


def networks():
    """The mapping network for a block of latents, and the synthesis network for one."""
    core, folder = openvino.Core(), weights()
    mapping, synthesis = (core.read_model(folder / f"{name}Network.xml") for name in ("Mapping", "Synthesis"))
    mapping.reshape([BLOCK, 512])
    return core.compile_model(mapping, "CPU", EXACT), core.compile_model(synthesis, "CPU", EXACT)


def latents(mapping, seed: int) -> np.ndarray:
    """A block of them, float32 `[4096, 512]`, not truncated."""
    return mapping([np.random.default_rng(seed).standard_normal((BLOCK, 512)).astype(np.float32)])[0]


def block_of_latents(mapping, out: Path, block: int) -> np.ndarray:
    """Truncated, float32 `[4096, 512]`; written to `out` as float16, beside their mean."""
    mean = latents(mapping, _SEED_OF_MEAN).mean(0, keepdims=True)
    w = mean + TRUNCATION * (latents(mapping, _SEED_OF_FIRST_BLOCK + block) - mean)
    out.mkdir(parents=True, exist_ok=True)
    np.save(out / "w_mean.npy", mean)
    np.save(out / f"w_{block:06d}.npy", w.astype(np.float16))
    return w


def face(synthesis, w: np.ndarray) -> Image.Image:
    image = synthesis([w[None]])[0][0].transpose(1, 2, 0)  # [h w 3] in [-1, 1]
    pixels = np.clip((image + 1) * 127.5 + 0.5, 0, 255).astype(np.uint8)
    return Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    main()
