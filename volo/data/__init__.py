"""From images, on disk or drawn, to batches on the device."""
