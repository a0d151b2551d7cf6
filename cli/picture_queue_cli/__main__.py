"""``python -m picture_queue_cli``: the same as the program ``picture-queue``."""

from picture_queue_cli.app import main

main()
