"""Adaptation methods: one small file each, one table of all."""

from tenshot.methods.base import Method as Method
from tenshot.methods.dap import Dap
from tenshot.methods.finetune import Finetune
from tenshot.methods.pretrain import Pretrain

METHODS: dict[str, type[Method]] = {method.name: method for method in (Dap, Finetune)}
"""The methods of `tenshot adapt` by name."""

KNOWN: dict[str, type[Method]] = {**METHODS, Pretrain.name: Pretrain}
"""All that a run's config.json may name."""
