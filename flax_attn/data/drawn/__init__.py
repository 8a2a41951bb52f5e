"""Cartoon cats and dogs, drawn: the embedded data sets, with masks of their animals.

``plan`` decides about a scene and ``pets`` draws it, with what the other files have: ``canvas``
(shapes), ``anatomy``, ``heads`` and ``coat`` (the animal), ``backgrounds`` and ``props``.
"""
