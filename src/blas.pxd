# Products of row-major matrices by SciPy's BLAS.
#
# BLAS is column-major: a row-major (n, k) array is its (k, n) matrix, and its flags transpose an operand as it is read.
# Of the ways to write a product these two are the fast ones: OpenBLAS lays out its second operand anew at every call,
# and does that quickest for one that it may read along k.
# Every dimension is an `int` to BLAS; the callers check that (cgru/checks.py, MAX_DIMENSION).

from libc.stdint cimport int64_t
from scipy.linalg.cython_blas cimport dgemm, dgemv, sgemm, sgemv

from blas_int cimport blas_int

ctypedef fused real:
    float
    double


# c := a W  for a (k,), W (k, m) with rows at any stride, c (m,).
cdef inline void row_product(const real* a, const real* w, int64_t w_stride, real* c,
                             int64_t k, int64_t m) noexcept nogil:
    cdef real zero = 0, one = 1
    cdef blas_int k_ = <blas_int> k, m_ = <blas_int> m, ldw = <blas_int> w_stride, unit = 1
    if real is float:
        sgemv(b"N", &m_, &k_, &one, <float*> w, &ldw, <float*> a, &unit, &zero, c, &unit)
    else:
        dgemv(b"N", &m_, &k_, &one, <double*> w, &ldw, <double*> a, &unit, &zero, c, &unit)


# C := A W  for A (n, k) with rows at any stride, W (k, m), C (n, m).
cdef inline void product(const real* a, int64_t a_stride, const real* w, real* c,
                         int64_t n, int64_t k, int64_t m) noexcept nogil:
    cdef real zero = 0, one = 1
    cdef blas_int n_ = <blas_int> n, k_ = <blas_int> k, m_ = <blas_int> m, lda = <blas_int> max(a_stride, k)
    if real is float:
        sgemm(b"N", b"N", &m_, &n_, &k_, &one, <float*> w, &m_, <float*> a, &lda, &zero, c, &m_)
    else:
        dgemm(b"N", b"N", &m_, &n_, &k_, &one, <double*> w, &m_, <double*> a, &lda, &zero, c, &m_)


# C := W op(A)  for W (m, k), C (m, n) with rows at any stride, and A either (n, k), read transposed, or (k, n).
cdef inline void transposed_product(const real* w, const real* a, int64_t a_stride, bint a_is_rows, real* c,
                                    int64_t c_stride, int64_t n, int64_t k, int64_t m) noexcept nogil:
    cdef real zero = 0, one = 1
    cdef char* flag = b"T" if a_is_rows else b"N"
    cdef blas_int n_ = <blas_int> n, k_ = <blas_int> k, m_ = <blas_int> m
    cdef blas_int lda = <blas_int> max(a_stride, k if a_is_rows else n), ldc = <blas_int> max(c_stride, n)
    if real is float:
        sgemm(flag, b"N", &n_, &m_, &k_, &one, <float*> a, &lda, <float*> w, &k_, &zero, c, &ldc)
    else:
        dgemm(flag, b"N", &n_, &m_, &k_, &one, <double*> a, &lda, <double*> w, &k_, &zero, c, &ldc)
