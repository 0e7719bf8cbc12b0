"""What several of the scripts beside this folder use, and in a folder of its own what one of them consists of."""
