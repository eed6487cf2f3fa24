"""The checks of `volo doctor` on this machine: versions, GPU, data, disk. For a cluster, see volo/cluster/doctor.py."""
