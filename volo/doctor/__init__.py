"""The checks of `jobs.doctor` on this machine: versions, GPU, data, disk. For a cluster, see volo/cluster/doctor.py."""
