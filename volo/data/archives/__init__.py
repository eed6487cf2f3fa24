"""Published archives: fetched, checked, unpacked."""
