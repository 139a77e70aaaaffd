"""`python -m crosscast.pipeline.cli`, where the script `crosscast` is not on the path."""

from crosscast.pipeline.cli import main

main()
