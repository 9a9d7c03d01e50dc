"""Finding the frames: which axis each frame has, the rows of the linear system, and their elimination."""
