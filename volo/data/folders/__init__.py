"""Image folders as people have them: listing, layout, decoding."""
