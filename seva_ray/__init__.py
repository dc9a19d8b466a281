"""Self-supervised visual preference alignment (SeVa, arXiv 2404.10501) as a distributed system on Ray."""
