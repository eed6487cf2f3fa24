"""Sweeps: an Optuna study decides, Ray Tune runs the trials, each trial is a run of the training loop."""
