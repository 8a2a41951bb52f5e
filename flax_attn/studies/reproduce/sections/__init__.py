"""The report's sections, one a claim or a figure of the article."""
