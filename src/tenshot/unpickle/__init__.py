"""Reads other programs' checkpoints, which are pickles, without ever executing one.

machine.py       an interpreter of the pickle opcodes that only moves data about
allowed.py       the names that a pickle may ask for, and the inert values that stand for them
tensors.py       tensors as views of raw storage, every bound checked
archive.py       the zip that a .pt is, checked by ourselves
checkpoint.py    which of the formats a file is, decided by its content
reading.py       the memory that a file may take, and the sentence that refuses it
"""

from tenshot.unpickle.checkpoint import read as read
from tenshot.unpickle.checkpoint import read_checkpoint as read_checkpoint
from tenshot.unpickle.reading import Record as Record
from tenshot.unpickle.reading import shown as shown
from tenshot.unpickle.reading import some as some
from tenshot.unpickle.tensors import StoredTensor as StoredTensor
from tenshot.unpickle.tensors import read_all as read_all
