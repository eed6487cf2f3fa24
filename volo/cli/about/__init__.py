"""What volo says of itself: its recipes, its search spaces, its commands and flags to a shell."""
