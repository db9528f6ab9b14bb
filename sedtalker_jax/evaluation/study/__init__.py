"""Studies with people: an offline page of videos to vote on, and what the votes say. `python -m sedtalker_jax study --help`"""
