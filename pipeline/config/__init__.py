"""The config: its keys (`schema`) and how a file becomes one (`load`)."""
