"""Adaptation methods: one small file each, one table of all."""

from tenshot.methods.ada import Ada
from tenshot.methods.adam import AdaM
from tenshot.methods.base import KNOWN as KNOWN
from tenshot.methods.base import Method as Method
from tenshot.methods.cdc import Cdc
from tenshot.methods.dap import Dap
from tenshot.methods.dcl import Dcl
from tenshot.methods.ewc import Ewc
from tenshot.methods.finetune import Finetune
from tenshot.methods.freezed import FreezeD
from tenshot.methods.pretrain import Pretrain as Pretrain
from tenshot.methods.rick import Rick

METHODS: dict[str, type[Method]] = {
    method.name: method for method in (Finetune, Ada, FreezeD, Ewc, Cdc, Dcl, AdaM, Rick, Dap)
}
"""The methods of `tenshot adapt` by name, in the order of the field's tables."""
