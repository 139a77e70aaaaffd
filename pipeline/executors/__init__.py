"""Where tasks run: each in an isolated process, on this machine."""
