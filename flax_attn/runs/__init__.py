"""The files that a run leaves on disk, and what may be done with them later.

Settings and conditions, checkpoints that are verified when they are read, light snapshots, the
log, resuming, and loading a trained network.

Refuses to compute: nothing here trains or evaluates.

Read ``resume`` first, then ``checkpoints``.
"""
