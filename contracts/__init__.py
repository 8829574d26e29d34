"""The documents that the control plane and the containers both read and write, in one place for
both sides.

It needs the standard library alone, and every image has a copy. Either side may be a release behind
the other: fields that this release does not know are kept and written again. ``docs/contracts.md``
shows each document; its examples are this package's fixtures.
"""
