// Entry points of the CPU library: registration in ONNX Runtime, and a plain C function for tests and other hosts.
#include <cstdlib>
#include <cstring>
#include <exception>
#include <mutex>

#include "binary_matmul.h"
#include "binary_matmul_op.h"
#include "factorizer_ops.h"

namespace {

using namespace dbf;

// Session configuration "dbf.accuracy", else the environment's DBF_ACCURACY: "exact" (default) or "fast".
bool wantsFast(const ort::ApiBase* base, const ort::KernelInfo* info) {
  std::string accuracy;
  if (const char* value = std::getenv("DBF_ACCURACY")) accuracy = value;
  const ort::Api api(base ? base->getApi(ort::kConfigEntriesVersion) : nullptr);
  ort::KeyValuePairs* entries = nullptr;
  if (api) {
    if (ort::Status* status = api.configEntries(info, &entries)) {
      api.releaseStatus(status);
    } else {
      if (const char* value = api.getKeyValue(entries, "dbf.accuracy")) accuracy = value;
      api.releaseKeyValuePairs(entries);
    }
  }
  if (accuracy.empty() || accuracy == "exact") return false;
  if (accuracy == "fast") return true;
  throw std::invalid_argument("Cannot run ai.dbf::BinaryMatMul as accuracy must be exact or fast: current value is " + accuracy);
}

const ort::ApiBase* host = nullptr;

class CpuKernel {
 public:
  static const char* provider() { return nullptr; }
  CpuKernel(const ort::Api& api, const ort::KernelInfo* info) : api_(api), fast_(wantsFast(host, info)) {}

  ort::Status* run(ort::KernelContext* context, const BinaryMatMulTensors& t) {
    if (reinterpret_cast<uintptr_t>(t.signs) % 4 != 0) return api_.createStatus(ort::kFail, "Cannot run ai.dbf::BinaryMatMul as B is not aligned to 4 bytes");
    Pool pool{api_, context, nullptr};
    const BinaryMatMulCall call{t.x, static_cast<const uint32_t*>(t.signs), t.scale, t.y, static_cast<size_t>(t.rows),
                                static_cast<size_t>(t.n), static_cast<size_t>(t.k), t.half, fast_};
    binaryMatMul(kernels(), call, {&Pool::run, &pool});
    return pool.status;
  }

 private:
  // The session's own threads.
  struct Pool {
    const ort::Api& api;
    ort::KernelContext* context;
    ort::Status* status;
    static void run(void* self, void (*body)(void*, size_t), size_t tasks, void* data) {
      Pool& pool = *static_cast<Pool*>(self);
      pool.status = pool.api.parallelFor(pool.context, body, tasks, 0, data);
    }
  };
  const ort::Api api_;
  const bool fast_;
};

void inThisThread(void*, void (*body)(void*, size_t), size_t tasks, void* data) {
  for (size_t i = 0; i < tasks; i++) body(data, i);
}

}  // namespace

// Called by ONNX Runtime when the library is registered in a session's options.
DBF_EXPORT dbf::ort::Status* DBF_ORT_CALL RegisterCustomOps(dbf::ort::SessionOptions* options, const dbf::ort::ApiBase* base) {
  static std::mutex mutex;
  const std::lock_guard<std::mutex> lock(mutex);
  host = base;
  return dbf::registerBinaryMatMul<CpuKernel>(options, base, dbf::factorizerOps());
}

// The instruction set that kernels dispatch to here.
DBF_EXPORT const char* dbf_isa() { return dbf::kernels().isa; }

// All instruction sets that this machine can run, comma-separated.
DBF_EXPORT const char* dbf_isas() { return dbf::kernelNames(); }

// Names of all operators, comma-separated.
DBF_EXPORT const char* dbf_operators() { return "BinaryMatMul,SpdRoot,FactorPull,FactorAdvance,FactorFix,SignSearch"; }

// y (rows, n) = (x (rows, k) · signsᵀ) ⊙ scale (n) in this thread; see BinaryMatMulCall. `isa` is one of dbf_isas(), or null
// for the best; `half` and `fast` are 0 or 1. Returns 0, or 1 unknown isa, 2 invalid sizes or alignment, 3 out of memory.
DBF_EXPORT int dbf_binary_matmul(const char* isa, const void* x, const void* signs, const void* scale, void* y, int64_t rows,
                                 int64_t n, int64_t k, int half, int fast) {
  const dbf::KernelSet* set = isa ? dbf::kernelsNamed(isa) : &dbf::kernels();
  if (!set) return 1;
  const int64_t most = int64_t{1} << 31;
  if (rows < 0 || n < 1 || k < 1 || rows > most || n > most || k > most || reinterpret_cast<uintptr_t>(signs) % 4 != 0) return 2;
  const dbf::BinaryMatMulCall call{x, static_cast<const uint32_t*>(signs), scale, y, static_cast<size_t>(rows),
                                   static_cast<size_t>(n), static_cast<size_t>(k), half != 0, fast != 0};
  try {
    dbf::binaryMatMul(*set, call, {&inThisThread, nullptr});
  } catch (const std::exception&) {
    return 3;
  }
  return 0;
}
