"""The decoded images that a node keeps on its disk."""
