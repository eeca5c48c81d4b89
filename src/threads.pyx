# cython: language_level=3
"""Whether and which OpenMP the package was built with; the counts themselves are kept in cgru/config.py."""

cdef extern from *:
    """
    #ifdef _OPENMP
    #define CGRU_OPENMP _OPENMP
    #else
    #define CGRU_OPENMP 0
    #endif
    """
    const int CGRU_OPENMP

OPENMP = CGRU_OPENMP
"""The date of the OpenMP standard that the compiler followed, as 201511, or 0 without OpenMP."""
