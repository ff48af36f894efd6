"""`python -m plumbline` is the command line, as `plumbline` is."""

from plumbline.commands.main import main

main()
