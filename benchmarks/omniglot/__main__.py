"""Train and test: `python -m benchmarks.omniglot`."""

import sys

from benchmarks.omniglot.command import main

sys.exit(main())
