"""The commands: volo train, tune, analyze, predict, pipeline, export, compare, runs, doctor."""
