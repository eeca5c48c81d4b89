// Weights of float32, as they are.
#pragma once

#include "storage/widened.h"

namespace cgru {
namespace CGRU_SET {

struct Float32 : Widened<Float32> {
    static constexpr double bytes = 4;
    static const int inputs = 1;
    typedef float Number;
    typedef float Unit;
    typedef FloatVector Raw;
    static CGRU_MEMBER Raw load_raw(const Unit* p) { return load<float>(p); }
    template <int input> static CGRU_MEMBER FloatVector widened(Raw raw) { return raw; }
};

template <> struct StorageOf<storage_float32> { typedef Float32 type; };

}  // namespace CGRU_SET
}  // namespace cgru
