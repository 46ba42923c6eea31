"""Wire formats: bytes in, events out, no I/O. `base` says what a dialect is; each other module is one."""
