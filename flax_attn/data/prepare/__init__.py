"""Public data sets as they are downloaded, laid out as the project reads them.

``flax-attn prepare`` writes a folder of parts and classes, and masks beside it, that ``--dataset
folder`` reads, or one with a table of cases for ``labelled_csv``. Nothing is downloaded, no image
is changed, and what is written is whole or absent. It has no mark of our own output
(``system.output``), for it is a data set.

To add one, write its module with ``prepare(args)``, and ``add_flags(group)`` for flags of its own,
and add a row to ``SETS`` in ``prepare_flags``.

Read ``isic`` first.
"""
