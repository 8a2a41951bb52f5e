"""The article's experiments done again, each of its claims beside a number that can refute it."""
