"""What the queue engine costs: SQL functions over direct connections, no worker and no HTTP."""
