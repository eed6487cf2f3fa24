"""The network: operator, blocks, and the forms built from them."""

from volo.temporary import keep_compiled_code

keep_compiled_code()  # before any part of PyTorch that compiles is imported
