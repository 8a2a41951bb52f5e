"""Weights: the porting command, and where ported files land."""
