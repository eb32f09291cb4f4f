"""People's Python in processes of its own: zygote, channel, the pool of a model's workers, and the dialects."""
