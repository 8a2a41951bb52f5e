"""Public data sets as they are downloaded, laid out as the project reads them.

``flax-attn prepare`` writes a folder of parts and classes, and masks beside it, that ``--dataset
folder`` reads. Nothing is downloaded, no image is changed, and what is written is whole or absent.
It has no mark of our own output (``system.output``), for it is a data set.

To add one, write its module with ``add_flags(group)`` and ``prepare(args)``, and add a row to
``SETS`` in ``prepare_command``.

Read ``isic`` first.
"""
