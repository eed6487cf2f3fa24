"""What `volo doctor` looks at on this machine: versions, GPU, data, disk. A cluster: volo/cluster/doctor.py."""
