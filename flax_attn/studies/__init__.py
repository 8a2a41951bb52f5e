"""Experiments that train many networks: ``ablate``, ``cross-validate`` and ``reproduce``.

``ablate`` trains every score with every alignment under one budget; ``cross-validate`` a network
for every fold of a data set; ``reproduce`` does the experiments of the article, or of the parent
paper, again and gives each claim a verdict. All resume where they stopped; ``rows`` keeps what they
have found.

Refuses new mathematics: what a study measures is defined in the rooms above.

Read ``ablate/ablate_command``, ``cross_validate/cross_validate_command`` or
``reproduce/reproduce_command`` first.
"""
