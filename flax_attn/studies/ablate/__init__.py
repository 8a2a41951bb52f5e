"""Compares forms of attention: many small trainings under one budget, on frozen features.

``axes`` says what varies, ``ablate_command`` goes through the grid and keeps each row, ``grid``
trains and measures,
``table`` and ``grid_figure`` show the rows. Read ``ablate_command`` first.
"""
