"""Trains a network for every fold, and judges each image once by the one that has not seen it.

``cross_validate_command`` goes through the folds and keeps each row, ``fold_run`` trains and
judges one, ``fold_table`` and ``fold_figure`` show the rows. Read ``cross_validate_command`` first.
"""
