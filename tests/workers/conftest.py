"""What the tests of workers share with those of one process."""

from tests.test_service import hanging

__all__ = ["hanging"]
