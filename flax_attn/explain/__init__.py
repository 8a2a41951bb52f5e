"""What a network looks at: maps, and measures of maps.

Attention, class activation maps and gradients are arrays in, arrays out (``cam``, ``gradients``);
``explainer`` runs them over photographs, ``page`` and ``maps_figure`` show them, ``measures`` asks
whether they lie on the object and whether the network uses what they point at.

Refuses to train.

Read ``forward`` first: the view of a network that every map starts from.
"""
