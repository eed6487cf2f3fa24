"""Commands about volo itself: its recipes, its search spaces, and shell completion."""
