"""What can go wrong, and the exit code that says so.     Light: no Spark, no torch.

Every message tells what was found, what is allowed, and where it was set.
"""


class TandemError(Exception):
    """A failure with an exit code that a scheduler can act on (sysexits.h)."""

    exit_code = 70


class BadArgument(TandemError):
    """A wrong date, key, value or path: no retry helps."""

    exit_code = 64


class BadData(TandemError):
    """Data that a check refused: no retry helps until the data or the limit changes."""

    exit_code = 65


class MissingInput(TandemError):
    """A table, file or tool that is needed is not there: no retry helps until it is."""

    exit_code = 69


class Transient(TandemError):
    """Lost a race or a connection: retry."""

    exit_code = 75
