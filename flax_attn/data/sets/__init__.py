"""The formats of data sets whose images are encoded files: one file each, with ``open_set``.

``tfds`` holds what the two sets of TensorFlow Datasets have in common.
"""
