"""`python -m serve_app.run`, which `make run` calls: see `serve_app/launcher/cli.py`."""

import sys

from serve_app.launcher.signals import heed_stop_signals

if __name__ == "__main__":
    heed_stop_signals()

from serve_app.launcher.cli import main  # it takes long: a signal would come before it is heeded

if __name__ == "__main__":
    sys.exit(main())
