"""Runs the containers of the deployment files on this machine, as a container engine would: see `check`."""
