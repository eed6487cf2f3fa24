"""Runs on disk: folder, records, checkpoints, and a listing of several."""
