"""The report's sections, one a claim, a figure or a table of a paper."""
