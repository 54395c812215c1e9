"""Tens of thousands of small faces with their latents, quickly: what a source is distilled from.

    python make_pairs.py learn FACES HEAD              # FACES: make_faces.py's folder, or a zip of it; about 8 minutes
    python make_pairs.py draw HEAD OUT START COUNT     # about 37 faces a second

Needs what make_faces.py needs, and torch. Most of MobileStyleGAN's time goes into its layers above 64 px. Here they are
replaced by a small network, the head, which learns from faces that were drawn whole to draw them at 64 px from the
features that the teacher has by then and from the latent. It gives tones and outlines, not grain: use the pairs with
`tenshot pretrain --pretrain.pair-coarse`, and never as images of the teacher. `learn` prints how far it is, at 64, 32,
16 and 8 px, from every tenth face of FACES, which it does not learn from.
"""

import argparse
import time
from pathlib import Path

import make_faces
import numpy as np
import openvino
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from tenshot.pairs import Pairs, load_pairs

SIDE, CHANNELS = 64, 128  # of the teacher's features
NODE = "Mul_386"  # in SynthesisNetwork.xml: what the first convolution at 64 px takes
WIDTHS = 96, 64, 32
BATCH, RATE = 16, 0.002
_START_OF_FALL = 0.375  # of the time, from which on the learning rate falls to 0


class Head(nn.Module):
    """3 x 3 convolutions whose channels are scaled and moved by the latent, and a linear way around them."""

    def __init__(self) -> None:
        super().__init__()
        self.x_mean, self.x_scale = (nn.Parameter(torch.zeros(CHANNELS, 1, 1), False) for _ in range(2))
        self.w_mean, self.w_scale = (nn.Parameter(torch.zeros(512), False) for _ in range(2))
        sizes = [CHANNELS, *WIDTHS]
        self.convolutions = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in zip(sizes, WIDTHS, strict=False))
        self.styles = nn.ModuleList(_silent(nn.Linear(512, 2 * width)) for width in (*WIDTHS, 3))
        self.to_rgb, self.around = nn.Conv2d(WIDTHS[-1], 3, 1), nn.Conv2d(CHANNELS, 3, 1)

    def forward(self, features: Tensor, w: Tensor) -> Tensor:
        """`[n 128 64 64]` and `[n 512]` to images `[n 3 64 64]`, about [-1, 1]."""
        x = y = (features - self.x_mean) / self.x_scale
        w = (w - self.w_mean) / self.w_scale * 4 / 512**0.5
        for convolution, style in zip(self.convolutions, self.styles, strict=False):
            y = F.leaky_relu(_styled(convolution(y), style(w)), 0.2)
        return _styled(self.to_rgb(y) + self.around(x), self.styles[-1](w))

    @torch.no_grad()
    def measure(self, features: Tensor, w: Tensor) -> None:
        """Take mean and size of what goes in from these."""
        self.x_mean.copy_(features.mean((0, 2, 3))[:, None, None])
        self.x_scale.copy_(features.std((0, 2, 3))[:, None, None])
        self.w_mean.copy_(w.mean(0))
        self.w_scale.copy_(w.std(0))


def _silent(layer: nn.Linear) -> nn.Linear:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _styled(x: Tensor, style: Tensor) -> Tensor:
    scale, shift = style[:, :, None, None].chunk(2, dim=1)
    return x * (1 + scale) + shift


class Teacher:
    """The synthesis network up to its first features at 64 px."""

    def __init__(self) -> None:
        model = openvino.Core().read_model(make_faces.weights() / "SynthesisNetwork.xml")
        end = next(op for op in model.get_ops() if op.get_friendly_name() == NODE)
        cut = openvino.Model([end.output(0)], model.get_parameters())
        self.network = openvino.Core().compile_model(cut, "CPU", make_faces.EXACT)

    def __call__(self, ws: Tensor) -> Tensor:
        """`[n 512] -> [n 128 64 64]`, bfloat16."""
        made = torch.empty(len(ws), CHANNELS, SIDE, SIDE, dtype=torch.bfloat16)
        for features, w in zip(made, ws, strict=True):
            features.copy_(torch.from_numpy(self.network([w[None].numpy()])[0][0]))
        return made


def learn(faces: str, path: Path, minutes: float) -> None:
    pairs, teacher, head = load_pairs(faces, SIDE), Teacher(), Head()
    print(f"features of {len(pairs.ws):,} faces", flush=True)
    features = teacher(pairs.ws)
    unseen = torch.arange(len(pairs.ws)) % 10 == 0
    seen = (~unseen).nonzero().flatten()
    head.measure(features[seen[:500]].float(), pairs.ws[seen])
    trained = [p for p in head.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, RATE, betas=(0.9, 0.99), weight_decay=0.02)
    start, step = time.monotonic(), 0
    while (done := (time.monotonic() - start) / (60 * minutes)) < 1:
        rate = RATE * min(1, (step + 1) / 50) * min(1, (1 - done) / (1 - _START_OF_FALL) + 0.02)
        optimiser.param_groups[0]["lr"] = rate
        chosen = seen[torch.randint(len(seen), (BATCH,))]
        loss = torch.stack(_distances(_draw(head, features[chosen], pairs.ws[chosen]), _wanted(pairs, chosen))).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        step += 1
        if step % 100 == 0:
            _report(head, features, pairs, unseen.nonzero().flatten()[:300], step)
    torch.save(head.state_dict(), path)
    print(f"{path}: {step:,} steps of {BATCH}", flush=True)


@torch.no_grad()
def _report(head: Head, features: Tensor, pairs: Pairs, unseen: Tensor, step: int) -> None:
    made = torch.cat([_draw(head, features[part], pairs.ws[part]) for part in unseen.split(BATCH)])
    print(step, " ".join(f"{distance:.4f}" for distance in _distances(made, _wanted(pairs, unseen))), flush=True)


def _draw(head: Head, features: Tensor, w: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return head(features.float(), w).float()


def _wanted(pairs: Pairs, chosen: Tensor) -> Tensor:
    return pairs.images[chosen].float() / 127.5 - 1


def _distances(made: Tensor, wanted: Tensor) -> list[Tensor]:
    """Mean absolute differences at 64, 32, 16 and 8 px."""
    return [(F.avg_pool2d(made, k) - F.avg_pool2d(wanted, k)).abs().mean() for k in (1, 2, 4, 8)]


@torch.no_grad()
def draw(path: Path, out: Path, start: int, count: int) -> None:
    """Blocks of latents as make_faces.py has them: START is part of what makes a face."""
    head, teacher, (mapping, _) = Head(), Teacher(), make_faces.networks()
    head.load_state_dict(torch.load(path, weights_only=True))
    for block in range(start, start + count, make_faces.BLOCK):
        w = torch.from_numpy(make_faces.block_of_latents(mapping, out, block).astype(np.float32))
        folder = out / "img" / f"{block:06d}"
        folder.mkdir(parents=True, exist_ok=True)
        rows = torch.arange(min(make_faces.BLOCK, start + count - block))
        for part in rows.split(BATCH):
            images = _draw(head, teacher(w[part]), w[part])
            pixels = ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
            for row, image in zip(part.tolist(), pixels, strict=True):
                Image.fromarray(image).save(folder / f"{block + row:06d}.png", compress_level=1)
        print(f"{block + len(rows) - start:,} of {count:,}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    learning = commands.add_parser("learn")
    learning.add_argument("faces")
    learning.add_argument("head", type=Path)
    learning.add_argument("--minutes", type=float, default=8)
    drawing = commands.add_parser("draw")
    drawing.add_argument("head", type=Path)
    drawing.add_argument("out", type=Path)
    drawing.add_argument("start", type=int)
    drawing.add_argument("count", type=int)
    options = parser.parse_args()
    if options.command == "learn":
        learn(options.faces, options.head, options.minutes)
    else:
        draw(options.head, options.out, options.start, options.count)


if __name__ == "__main__":
    main()
