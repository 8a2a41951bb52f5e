"""The machine and its files, with no knowledge of networks.

Files and folders that a crash leaves whole or absent, the console, processor and memory, signals,
several processes, and the command line. Promises that hold everywhere are made here once:
"written whole or not at all" (``files.replacing``), "an error of the system becomes one of ours"
(``files.writing``), "a failure is one line and a code" (``cli.run``).

Refuses anything that knows what an image or a network is.

Read ``files`` first, then ``cli``.
"""
