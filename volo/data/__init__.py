"""Images from disk or drawn, to batches on the device."""
