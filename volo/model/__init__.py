"""The network: operator, blocks, forms, and their building."""
