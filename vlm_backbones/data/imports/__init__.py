"""A user's tables become dataset folders and task folders; used from outside: the importers."""
