"""`python -m rarememory demo` shows what a memory is, offline, in under three minutes."""

import sys

from rarememory.demo import demo

if __name__ == "__main__":
    if sys.argv[1:] != ["demo"]:
        sys.exit("usage: python -m rarememory demo")
    demo()
