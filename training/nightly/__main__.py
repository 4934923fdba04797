"""`python -m training.nightly`: see `training/nightly/cli.py`."""

import sys

from training.nightly.cli import main

if __name__ == "__main__":
    sys.exit(main())
