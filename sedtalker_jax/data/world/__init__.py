"""The built-in world: synthetic speech and faces whose every label is exact.

    rules        the rules file, its checks, and the world's hash
    text         sentences, voices: who says what, split by sentence and voice
    timeline     emotion over a clip: parts, joins, ramps, and the frame truth made from them
    expression   emotion -> prosody of each word, with each voice's own habits
    espeak       speech from espeak-ng, which runs in a process of its own (espeak_server)
    acoustics    timbre, breath, tremor; then room, noise, codec
    faces        heads, face curves, articulation, the face space
    clip         one clip from plan to record
    oracle       speech of one clip with the expression of another, and any edit schedule, exactly
    prosody      seven prosody statistics: the baseline and the ideal observer's input
    report       calibration, histograms, join test, pictures

Nothing here imports jax.
"""
