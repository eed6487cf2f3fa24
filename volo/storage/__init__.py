"""Object storage: what lies under a URL, and who may write there."""
