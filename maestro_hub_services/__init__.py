"""The services of Maestro: each a folder that can be read alone, and a process of its own."""
