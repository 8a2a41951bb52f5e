"""Compares scores and alignments: many small trainings under one budget, on frozen features.

``ablate_command`` goes through the grid and keeps each row, ``grid`` trains and measures,
``table`` and ``grid_figure`` show the rows. Read ``ablate_command`` first.
"""
