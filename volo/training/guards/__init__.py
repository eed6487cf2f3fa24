"""What stops or explains a training that goes wrong: hangs, non-finite numbers, memory, unequal data."""
