"""A user's tables become dataset folders and task folders; from outside: `multiseismo`, `vqav2`, `new_task`."""
