"""One experiment per file; each has get_config(arg) and a ':smoke' variant."""
