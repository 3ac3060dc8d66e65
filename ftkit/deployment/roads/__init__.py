"""Every road out of a run, a module each; `export` writes one and proves it against the tuned model."""
