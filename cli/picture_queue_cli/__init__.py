"""The command line of picture-queue. One file per noun; the library does the work."""
