"""Adaptation methods: one small file each, one table of all."""

from tenshot.methods.base import Method as Method
from tenshot.methods.dap import Dap
from tenshot.methods.finetune import Finetune

METHODS: dict[str, type[Method]] = {method.name: method for method in (Dap, Finetune)}
