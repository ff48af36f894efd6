"""From other people's files to rows: formats, and the kinds of files they come in."""
