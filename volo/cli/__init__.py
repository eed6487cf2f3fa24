"""The commands of `volo`, one module each: parse, build, run, say where the result is. main.py finds them."""
