"""The study's tasks for lmms-eval, one folder a task; from outside: `scoring`. Importing this package loads nothing."""
