"""Releases and verifications at set times: by a daemon of our own, or exported to other schedulers.

times       when a cron expression comes, in its time zone
state       what has become of each job, on disk
jobs        the commands that jobs are, as processes
daemon      what is done when
status      all of that for people
export/     the same schedule for systemd, cron, GitHub, GitLab, Kubernetes
"""
