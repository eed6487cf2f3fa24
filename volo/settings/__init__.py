"""Every setting: what it may be, where it comes from. Loads neither torch nor Ray, so `--help` answers at once."""
