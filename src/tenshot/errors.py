"""The one exception that is meant to be read by a user.

Raise it for anything a user can cause and mend: a file that is not there, a flag that contradicts another,
a checkpoint of the wrong kind. The text names the cause, the value and the way out; the command line prints
it as one sentence and exits with 1. Anything else that escapes is a bug of tenshot and shows its traceback.
"""


class TenshotError(Exception):
    """A fault in what was given, told as a sentence: cause, value, way out."""
