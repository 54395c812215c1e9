"""Random numbers that depend on names, not on history.

Every draw comes from a generator seeded by (seed, what for, which step), so a resumed run needs no saved random state
and nothing here touches torch's global generator.
"""

import hashlib

import torch

LARGEST_SEED = 10**15 - 1
"""That a user may give."""


def generator_for(seed: int, *names: str | int) -> torch.Generator:
    """A fresh CPU generator for a purpose, for example `generator_for(seed, "step", 17)`.

    torch's CPU generator uses 32 bits of its seed, so among a million purposes about a hundred pairs share a stream.
    """
    text = "/".join(str(name) for name in (seed, *names))
    digest = hashlib.sha256(text.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
