"""Ray, made small: joining a cluster, what it offers, pools of actors, progress, metrics, the command line."""
