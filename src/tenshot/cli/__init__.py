"""The verbs, one file each: flags in, calls of the public functions, words out. Nothing is computed here.

`tenshot VERB` imports `tenshot.cli.VERB` and calls its `run(arguments)`, which returns the exit code.
"""
