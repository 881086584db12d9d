"""The program `rarememory`. It is no part of the package, whose import takes seconds.

In these seconds Ctrl-C ends the process as the system does it: Python would print a traceback of
torch's imports, and some of them catch every exception and go on.
"""

import signal
from contextlib import suppress


def main() -> None:
    """Import the command line, and run it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    with suppress(ModuleNotFoundError):
        import rarememory.commands.cli  # noqa: F401
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # It says what is missing.
    from rarememory.__main__ import main as run

    run()
