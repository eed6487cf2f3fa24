"""A run on disk: its folder, records, checkpoints, and the listing of several."""
