"""The network: operator, blocks, and the forms built from them."""
