"""A small layer over Ray: joining a cluster, its resources, actor pools, progress, metrics and the command line."""
