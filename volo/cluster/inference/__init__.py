"""Evaluates, explains and predicts on the workers of a cluster."""
