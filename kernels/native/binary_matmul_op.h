// The custom operator ai.dbf::BinaryMatMul for any provider: schema, shape inference and checks, so that a wrong model is an
// error of ONNX Runtime. `Kernel` does the work:
//   static const char* provider();                               nullptr is the CPU
//   Kernel(const ort::Api& api, const ort::KernelInfo* info);    may throw std::exception
//   ort::Status* run(ort::KernelContext* context, const BinaryMatMulTensors& tensors);   nullptr is success
#pragma once
#include <cstdio>
#include <exception>
#include <map>
#include <string>
#include <vector>

#include "ort_abi.h"

namespace dbf {

// Checked inputs and the output; `rows` is the product of X's dimensions but the last and may be 0.
struct BinaryMatMulTensors {
  const void* x;      // (rows, k)
  const void* signs;  // [ceil(n/16)][ceil(k/32)][16] u32
  const void* scale;  // (n)
  void* y;            // (rows, n)
  int64_t rows, n, k;
  bool half;          // x, scale and y are float16 instead of float
  const ort::Value* xValue;
};

namespace detail {

// Shape and element type of a tensor.
struct Shape {
  int type = 0;
  std::vector<int64_t> dims;
  int64_t product(size_t first, size_t last) const {
    int64_t total = 1;
    for (size_t i = first; i < last; i++) total *= dims[i];
    return total;
  }
  std::string text() const {
    std::string out = "[";
    for (size_t i = 0; i < dims.size(); i++) out += (i ? "," : "") + std::to_string(dims[i]);
    return out + "]";
  }
};

inline ort::Status* invalid(const ort::Api& api, const std::string& message) {
  return api.createStatus(ort::kInvalidArgument, ("Cannot run ai.dbf::BinaryMatMul as " + message).c_str());
}

inline ort::Status* readShape(const ort::Api& api, const ort::Value* value, Shape& out) {
  ort::TensorTypeAndShapeInfo* info = nullptr;
  if (ort::Status* status = api.tensorInfo(value, &info)) return status;
  size_t rank = 0;
  ort::Status* status = api.elementType(info, &out.type);
  if (!status) status = api.rank(info, &rank);
  if (!status) {
    out.dims.resize(rank);
    status = api.shape(info, out.dims.data(), rank);
  }
  api.releaseTensorInfo(info);
  return status;
}

}  // namespace detail

// Largest N and K taken: products of sizes stay far from overflow.
constexpr int64_t kLargestSize = int64_t{1} << 31;

template <typename Kernel>
class BinaryMatMulKernel {
 public:
  BinaryMatMulKernel(const ort::Api& api, const ort::KernelInfo* info, int64_t n, int64_t k)
      : api_(api), kernel_(api, info), n_(n), k_(k) {}

  ort::Status* compute(ort::KernelContext* context) {
    BinaryMatMulTensors t{};
    const ort::Value* values[3] = {};
    detail::Shape shapes[3];
    const char* const names[3] = {"X", "B", "out_scale"};
    for (size_t i = 0; i < 3; i++) {
      if (ort::Status* status = api_.input(context, i, &values[i])) return status;
      if (!values[i]) return detail::invalid(api_, std::string(names[i]) + " is missing");
      if (ort::Status* status = detail::readShape(api_, values[i], shapes[i])) return status;
    }
    const detail::Shape &x = shapes[0], &b = shapes[1], &scale = shapes[2];
    if (x.dims.empty() || x.dims.back() != k_) {
      return detail::invalid(api_, "the last dimension of X must be K=" + std::to_string(k_) + ": current shape is " + x.text());
    }
    const int64_t blocks = (n_ + 15) / 16, words = (k_ + 31) / 32;
    if (b.type != ort::kUint8 || b.dims != std::vector<int64_t>{blocks, words, 16, 4}) {
      return detail::invalid(api_, "B must be uint8 [" + std::to_string(blocks) + "," + std::to_string(words) + ",16,4] for N=" +
                                       std::to_string(n_) + ", K=" + std::to_string(k_) + ": current shape is " + b.text());
    }
    if (scale.type != x.type || scale.dims != std::vector<int64_t>{n_}) {
      return detail::invalid(api_, "out_scale must have the type of X and shape [" + std::to_string(n_) + "]: current shape is " + scale.text());
    }
    t.half = x.type == ort::kFloat16;
    if (!t.half && x.type != ort::kFloat) return detail::invalid(api_, "X must be float or float16");
    std::vector<int64_t> yShape = x.dims;
    yShape.back() = n_;
    ort::Value* y = nullptr;
    if (ort::Status* status = api_.output(context, 0, yShape.data(), yShape.size(), &y)) return status;
    t.rows = x.product(0, x.dims.size() - 1);
    t.n = n_;
    t.k = k_;
    if (t.rows == 0) return nullptr;
    void* data[4] = {};
    const ort::Value* const all[4] = {values[0], values[1], values[2], y};
    for (size_t i = 0; i < 4; i++) {
      if (ort::Status* status = api_.tensorData(all[i], &data[i])) return status;
    }
    t.x = data[0];
    t.signs = data[1];
    t.scale = data[2];
    t.y = data[3];
    t.xValue = values[0];
    return kernel_.run(context, t);
  }

  const ort::Api& api() const { return api_; }

 private:
  const ort::Api api_;
  Kernel kernel_;
  const int64_t n_, k_;
};

// The operator for X, out_scale and Y of one element type.
template <typename Kernel, int kType>
ort::CustomOp binaryMatMulOp() {
  using Self = BinaryMatMulKernel<Kernel>;
  ort::CustomOp op;
  op.name = [](const ort::CustomOp*) { return "BinaryMatMul"; };
  op.executionProvider = [](const ort::CustomOp*) { return Kernel::provider(); };
  op.inputCount = [](const ort::CustomOp*) -> size_t { return 3; };
  op.inputType = [](const ort::CustomOp*, size_t index) { return index == 1 ? ort::kUint8 : kType; };
  op.outputCount = [](const ort::CustomOp*) -> size_t { return 1; };
  op.outputType = [](const ort::CustomOp*, size_t) { return kType; };
  op.inputCharacteristic = [](const ort::CustomOp*, size_t) { return ort::kRequired; };
  op.outputCharacteristic = [](const ort::CustomOp*, size_t) { return ort::kRequired; };
  op.inputMemoryType = [](const ort::CustomOp*, size_t) { return ort::kMemoryDefault; };
  op.startVersion = [](const ort::CustomOp*) { return 1; };
  op.endVersion = [](const ort::CustomOp*) { return 1; };
  op.createKernelV2 = [](const ort::CustomOp*, const void* table, const ort::KernelInfo* info, void** out) -> ort::Status* {
    const ort::Api api(table);
    try {
      int64_t n = 0, k = 0;
      if (ort::Status* status = api.attributeInt(info, "N", &n)) return status;
      if (ort::Status* status = api.attributeInt(info, "K", &k)) return status;
      if (n < 1 || k < 1 || n > kLargestSize || k > kLargestSize) {
        return detail::invalid(api, "N and K must be positive: current values are " + std::to_string(n) + " and " + std::to_string(k));
      }
      *out = new Self(api, info, n, k);
      return nullptr;
    } catch (const std::exception& error) {
      return api.createStatus(ort::kFail, error.what());
    }
  };
  op.kernelComputeV2 = [](void* kernel, ort::KernelContext* context) -> ort::Status* {
    Self* self = static_cast<Self*>(kernel);
    try {
      return self->compute(context);
    } catch (const std::exception& error) {
      return self->api().createStatus(ort::kFail, error.what());
    }
  };
  op.kernelDestroy = [](void* kernel) { delete static_cast<Self*>(kernel); };
  return op;
}

// Registers both element types of the operator, and `more` operators, in domain ai.dbf of a session. Not to be called by two threads at once.
template <typename Kernel>
ort::Status* registerBinaryMatMul(ort::SessionOptions* options, const ort::ApiBase* base,
                                  const std::vector<const ort::CustomOp*>& more = {}) {
  const ort::Api api(base->getApi(ort::kApiVersion));
  if (!api) {
    std::fprintf(stderr, "dbf: ONNX Runtime %s is too old for the operator library, which needs 1.17\n", base->getVersionString());
    return nullptr;  // there is no table to make a status with: the session goes on without the library
  }
  static const ort::CustomOp single = binaryMatMulOp<Kernel, ort::kFloat>();
  static const ort::CustomOp half = binaryMatMulOp<Kernel, ort::kFloat16>();
  // One for each ONNX Runtime in the process; they live as long as it, as the sessions that use them may.
  static std::map<const ort::ApiBase*, ort::CustomOpDomain*> domains;
  ort::CustomOpDomain*& domain = domains[base];
  if (!domain) {
    ort::CustomOpDomain* made = nullptr;
    if (ort::Status* status = api.createCustomOpDomain("ai.dbf", &made)) return status;
    if (ort::Status* status = api.customOpDomainAdd(made, &single)) return status;
    if (ort::Status* status = api.customOpDomainAdd(made, &half)) return status;
    for (const ort::CustomOp* op : more) {
      if (ort::Status* status = api.customOpDomainAdd(made, op)) return status;
    }
    domain = made;
  }
  return api.addCustomOpDomain(options, domain);
}

}  // namespace dbf
