"""Plugins that MLflow loads by their entry points, in notebooks and in the programs that those start.

They make any tutorial's code work unchanged: runs land in the workspace's experiment, under the person's own name,
tagged with the notebook. Each returns at once outside a server that Maestro launched.
"""
