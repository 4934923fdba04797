"""A version: one signed bundle, tried in a child process before anybody trusts it."""
