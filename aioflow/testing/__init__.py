"""What aioflow is tested with, for those who extend it."""
