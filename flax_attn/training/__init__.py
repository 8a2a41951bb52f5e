"""Training and evaluation.

A step is a pure function of arrays, compiled once (``step``); the loop around it is one function
(``loop.fit``); examples are images or features of a frozen backbone (``sources``); devices and
hosts share each batch (``devices``, ``multihost``).

Refuses to know file formats of images or weights: ``data`` and ``porting`` do.

Read ``trainer`` first, then ``loop``: the whole course of a training under headings.
"""
