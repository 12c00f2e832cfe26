"""What this server uses: cpu and memory from its cgroup or from /proc, GPUs from the driver, disk from its volumes.

Everything here reads files or runs one program, blocks shortly, and is called in threads.
"""
