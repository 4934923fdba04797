"""`python -m serve_app.run`, which `make run` calls: see `serve_app/launcher/cli.py`."""

import sys

from serve_app.launcher.cli import main

if __name__ == "__main__":
    sys.exit(main())
