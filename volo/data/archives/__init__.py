"""Published archives: downloading, verifying, unpacking."""
