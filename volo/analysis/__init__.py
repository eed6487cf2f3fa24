"""What a checkpoint did and why: metrics, confusion, predictions, report."""
