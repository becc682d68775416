"""Makes the modules of this folder importable in all tests below it."""
