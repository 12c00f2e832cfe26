"""Launches as processes of this machine: their sandbox, folder, limits, and how they are found again.

The Hub's local spawner starts notebook servers with it, the workspaces service jobs. It decides nothing.
"""
