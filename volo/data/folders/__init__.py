"""Image folders as people have them: listed, laid out, decoded."""
