"""Pictures that differ as pictures do, for what judges pictures."""

import numpy as np
import torch
import torch.nn.functional as F


def shapes(n, seed, side=64):
    """Discs and bars of random colour, place and size on a random ground, uint8 [n, 3, side, side]."""
    random = np.random.RandomState(seed)
    y, x = np.mgrid[:side, :side] / side
    images = np.empty((n, 3, side, side), np.uint8)
    for image in images:
        image[:] = random.randint(0, 256, (3, 1, 1))
        for _ in range(3):
            cx, cy, r, lean = random.uniform((0.2, 0.2, 0.1, -1), (0.8, 0.8, 0.3, 1))
            disc = (x - cx) ** 2 + (y - cy) ** 2 < r**2
            bar = np.abs((x - cx) + lean * (y - cy)) < r / 3
            image[:, disc if random.rand() < 0.5 else bar] = random.randint(0, 256, (3, 1))
    return torch.from_numpy(images)


def blurred(images, width):
    padded = F.pad(images.float(), [width // 2] * 4, mode="replicate")
    return F.avg_pool2d(padded, width, stride=1).round().to(torch.uint8)
