// Calls of C functions by their address, for hosts that reach exported functions faster than addresses: Deno compiles code
// for every symbol that it opens (some nanoseconds a call), but interprets the signature of a function pointer (0.8 µs).
//
// Every argument and the result are integers or addresses of at most 64 bits; a narrower result is in the low bits.
#include <cstdint>

#include "ort_abi.h"

namespace {

using Word = uint64_t;

template <typename... Words>
Word call(Word function, Words... words) {
  return reinterpret_cast<Word(DBF_ORT_CALL*)(Words...)>(static_cast<uintptr_t>(function))(words...);
}

}  // namespace

// dbf_call_N(function, N arguments): what the function returns.
DBF_EXPORT Word dbf_call_1(Word f, Word a) { return call(f, a); }
DBF_EXPORT Word dbf_call_2(Word f, Word a, Word b) { return call(f, a, b); }
DBF_EXPORT Word dbf_call_3(Word f, Word a, Word b, Word c) { return call(f, a, b, c); }
DBF_EXPORT Word dbf_call_4(Word f, Word a, Word b, Word c, Word d) { return call(f, a, b, c, d); }
DBF_EXPORT Word dbf_call_5(Word f, Word a, Word b, Word c, Word d, Word e) { return call(f, a, b, c, d, e); }
DBF_EXPORT Word dbf_call_8(Word f, Word a, Word b, Word c, Word d, Word e, Word g, Word h, Word i) {
  return call(f, a, b, c, d, e, g, h, i);
}
