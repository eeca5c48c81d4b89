OPENMP: int
