"""Real servers for the tests: a fake would only prove that the fake agrees with itself."""
