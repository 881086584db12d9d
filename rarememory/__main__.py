"""`python -m rarememory demo` shows what a memory is, offline, in under three minutes."""

import sys


def main() -> None:
    """Run the demo, or say what there is to run and what it needs."""
    usage = "usage: python -m rarememory demo"
    if sys.argv[1:] in (["-h"], ["--help"]):
        print(usage)
        return
    if sys.argv[1:] != ["demo"]:
        sys.exit(usage)
    try:
        from rarememory.demo import demo
    except ModuleNotFoundError as error:
        sys.exit(f'the demo needs {error.name}: pip install "rarememory[bench]"')
    demo()


if __name__ == "__main__":
    main()
