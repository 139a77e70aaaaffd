"""Where releases live: a directory, HTTP, S3, an OCI registry. One file each."""
