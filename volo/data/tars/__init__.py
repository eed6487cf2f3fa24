"""Images in tar files as webdataset writes them, read where they are."""
