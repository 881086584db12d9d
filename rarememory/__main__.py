"""`rarememory`, or `python -m rarememory`: the command line, which needs Typer but for `info`."""

import sys


def main() -> None:
    """Run the command line, or say what it needs."""
    try:
        from rarememory.commands.cli import main as run
    except ModuleNotFoundError as error:
        if sys.argv[1:2] == ["info"]:
            from rarememory.commands.info import print_facts

            return print_facts(as_json="--json" in sys.argv)
        sys.exit(f'the command line needs {error.name}: pip install "rarememory[cli]"')
    except KeyboardInterrupt:
        # Its imports take seconds, in which nothing else catches Ctrl-C.
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
