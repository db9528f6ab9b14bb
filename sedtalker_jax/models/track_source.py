"""Where a training clip's emotion condition comes from: numbers that pipeline and model agree on, free of JAX."""

TRUE_TRACK = 0
"""The face's own true activation."""

NOISY_TRACK = 1
"""The true activation with a diarizer's kind of errors."""

PREDICTED_TRACK = 2
"""What the diarizer says of the clip in the same step."""

EDITED_TRACK = 3
"""What the diarizer's heads say of an edited embedding: an emotion that this face never showed, so its motion has no truth."""
