"""Faces: templates, the built-in parametric heads and their rig, articulation, motion spaces, pictures and videos.

Heads: head.make_head. Rig weights from phonemes and feelings: articulation.articulate. Low-rank motion: space.FaceSpace.
Meshes on disk: template.load_template and save_template. Pictures: render.render_frame; videos: video.write_video.
"""
