"""Entry points: each parses, builds, runs, and says where the result is."""
