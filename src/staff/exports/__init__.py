"""A coreset in a trainer's own format, with the files that its run needs: one file a trainer."""
