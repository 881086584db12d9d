"""`python -m rarememory demo` shows what a memory is, offline, in under three minutes."""

import sys


def main() -> None:
    """Run the demo, or say what there is to run and what it needs."""
    if sys.argv[1:] != ["demo"]:
        sys.exit("usage: python -m rarememory demo")
    try:
        from rarememory.demo import demo
    except ModuleNotFoundError as error:
        sys.exit(f'the demo needs {error.name}: pip install "rarememory[bench]"')
    demo()


if __name__ == "__main__":
    main()
