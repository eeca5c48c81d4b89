// Weights of float32, as they are.
#pragma once

#include "storage/widened.h"

namespace cgru {
namespace CGRU_SET {

struct Float32 : Widened<Float32> {
    static const int bytes = 4, inputs = 1;
    typedef float Unit;
    typedef FloatVector Raw;
    static CGRU_MEMBER Raw load_raw(const Unit* p) { return load<float>(p); }
    template <int input> static CGRU_MEMBER FloatVector widened(Raw raw) { return raw; }
};

template <> struct StorageOf<storage_float32> { typedef Float32 type; };

}  // namespace CGRU_SET
}  // namespace cgru
