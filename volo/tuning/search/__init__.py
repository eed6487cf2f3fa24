"""Chooses what a sweep tries next: the space, its points, and how they are drawn."""
