"""What a sweep tries next: the space, its points, and how one is drawn."""
