"""Train and test: `python -m benchmarks.omniglot`."""

import sys

from benchmarks.omniglot.training import main

sys.exit(main())
