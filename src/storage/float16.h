// Weights of float16, widened to float32 as they are loaded, which loses nothing.
#pragma once

#include "storage/widened.h"

namespace cgru {
namespace CGRU_SET {

struct Float16 : Widened<Float16> {
    static const int bytes = 2, inputs = 1;
    typedef uint16_t Unit;
    typedef FloatVector Raw;
    static CGRU_MEMBER Raw load_raw(const Unit* p) { return widen_halves(p); }
    template <int input> static CGRU_MEMBER FloatVector widened(Raw raw) { return raw; }
};

template <> struct StorageOf<storage_float16> { typedef Float16 type; };

}  // namespace CGRU_SET
}  // namespace cgru
