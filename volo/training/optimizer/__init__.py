"""The optimizer, the learning rate of each step and layer, and the moving average of the weights."""
