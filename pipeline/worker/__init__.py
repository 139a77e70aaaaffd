"""What runs inside isolated processes: the warm parents and the workers that they fork."""
