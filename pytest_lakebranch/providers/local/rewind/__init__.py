"""Rewind: a branch is put back, in place, to the sealed state it was made from; byte for byte, or not at all.

The log says which blocks were touched since then. With every client gone and none able to come, these blocks are
evicted from shared buffers and written back from the sealed files: O(blocks touched), whatever the size of the base.
Every step that cannot be shown to be complete ends in :class:`UnprovenError`, and the branch is replaced.
"""
