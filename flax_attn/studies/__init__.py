"""Experiments that train many networks: ``ablate`` and ``reproduce``.

``ablate`` trains every score with every alignment under one budget; ``reproduce`` does the
experiments of the article, or of the parent paper, again and gives each claim a verdict. Both
resume where they stopped.

Refuses new mathematics: what a study measures is defined in the rooms above.

Read ``ablate/ablate_command`` or ``reproduce/reproduce_command`` first.
"""
