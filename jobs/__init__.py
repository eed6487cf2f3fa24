"""`python -m jobs.NAME` is `volo NAME` in a checkout and in a Ray job; the commands lie in volo/cli."""
