"""One Ray head for the sweeps of these tests."""

from tests.cluster.conftest import head, ray_env

__all__ = ["head", "ray_env"]
