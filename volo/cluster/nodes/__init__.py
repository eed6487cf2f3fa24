"""What `volo doctor` asks of every node of a cluster: whether they are alike, have room, and reach each other."""
