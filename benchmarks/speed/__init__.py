"""How fast tenshot is: one command a figure, from the repository's root. docs/performance.md has what came out."""
