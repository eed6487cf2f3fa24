"""The cache of decoded images on a node's disk."""
