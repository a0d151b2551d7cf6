"""Storage: rows in ``storage.objects`` under the caller's policies, bytes in files."""
