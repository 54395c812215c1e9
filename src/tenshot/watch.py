"""How whoever waits hears how far long work has come."""

from collections.abc import Callable

Watch = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and how much there is."""
