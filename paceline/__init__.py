"""The `paceline` command: the one top-level name that a wheel installs."""
