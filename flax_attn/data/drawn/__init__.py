"""Cartoon cats and dogs, drawn: the embedded data set, with masks of its animals."""
