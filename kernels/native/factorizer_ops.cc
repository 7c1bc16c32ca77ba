#include "factorizer_ops.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <exception>
#include <string>

#include "binary_matmul.h"
#include "binary_matmul_op.h"
#include "factorizer_kernels.h"
#include "scratch.h"

namespace dbf {
namespace {

// Elements of a task: some microseconds of work.
constexpr size_t kTaskElements = 16384;

// Largest attribute of a search: its log of flips stays small.
constexpr int64_t kMostSteps = int64_t{1} << 24;

// An error of the run that names the operator.
struct Refused {
  std::string message;
};

// ONNX Runtime's own error.
struct Failed {
  ort::Status* status;
};

void check(ort::Status* status) {
  if (status) throw Failed{status};
}

// Inputs and outputs of one call, checked.
class Call {
 public:
  Call(const ort::Api& api, ort::KernelContext* context) : api_(api), context_(context) {}

  size_t inputs() const {
    size_t count = 0;
    check(api_.inputCount(context_, &count));
    return count;
  }
  std::vector<int64_t> shape(size_t index) const {
    detail::Shape shape;
    check(detail::readShape(api_, value(index), shape));
    return shape.dims;
  }
  // Elements of input `index`; its shape must be `rows` × `cols`.
  const float* matrix(size_t index, int64_t rows, int64_t cols) const {
    if (shape(index) != std::vector<int64_t>{rows, cols}) {
      throw Refused{"input " + std::to_string(index) + " must be [" + std::to_string(rows) + "," + std::to_string(cols) + "]"};
    }
    return data(value(index));
  }
  float scalar(size_t index) const {
    for (int64_t size : shape(index)) {
      if (size != 1) throw Refused{"input " + std::to_string(index) + " must have one element"};
    }
    return *data(value(index));
  }
  float* output(size_t index, int64_t rows, int64_t cols) const {
    const int64_t shape[2] = {rows, cols};
    ort::Value* value = nullptr;
    check(api_.output(context_, index, shape, 2, &value));
    return data(value);
  }
  // body(i) for i < tasks on the session's threads.
  template <typename Body>
  void parallel(size_t tasks, const Body& body) const {
    const auto run = [](void* data, size_t index) { (*static_cast<const Body*>(data))(index); };
    if (tasks == 1) return body(0);
    check(api_.parallelFor(context_, run, tasks, 0, const_cast<Body*>(&body)));
  }

 private:
  const ort::Value* value(size_t index) const {
    const ort::Value* out = nullptr;
    check(api_.input(context_, index, &out));
    if (!out) throw Refused{"input " + std::to_string(index) + " is missing"};
    return out;
  }
  float* data(const ort::Value* value) const {
    void* out = nullptr;
    check(api_.tensorData(value, &out));
    return static_cast<float*>(out);
  }
  const ort::Api& api_;
  ort::KernelContext* const context_;
};

const FactorizerKernels& arithmetic() { return *kernels().factorizer; }

// Inputs `first` and on of an operator: Y, u, v.
struct State {
  size_t rows, cols;
  const float *y, *u, *v;
  State(const Call& call, size_t first) {
    const std::vector<int64_t> shape = call.shape(first);
    if (shape.size() != 2 || shape[0] < 1 || shape[1] < 1) throw Refused{"Y must be a matrix that is not empty"};
    rows = static_cast<size_t>(shape[0]);
    cols = static_cast<size_t>(shape[1]);
    y = call.matrix(first, shape[0], shape[1]);
    u = call.matrix(first + 1, shape[0], 1);
    v = call.matrix(first + 2, 1, shape[1]);
  }
  FactorRow row(size_t i) const { return {y + i * cols, u[i], v}; }
  // body(i) for every row, some rows a task.
  template <typename Body>
  void eachRow(const Call& call, const Body& body) const {
    const size_t step = std::max<size_t>(1, kTaskElements / cols);
    call.parallel((rows + step - 1) / step, [&](size_t task) {
      for (size_t i = task * step; i < std::min(rows, (task + 1) * step); i++) body(i);
    });
  }
};

struct SpdRoot {
  static constexpr const char* kName = "SpdRoot";
  static constexpr size_t kInputs = 1, kOutputs = 1;
  static constexpr int kCharacteristic = ort::kVariadic;
  SpdRoot(const ort::Api&, const ort::KernelInfo*) {}

  void run(const Call& call) const {
    struct Item {
      const float* m;
      int64_t size;
      float lambda;
      float *r, *work;
    };
    std::vector<Item> items(call.inputs() / 2);
    if (items.empty() || call.inputs() % 2 != 0) throw Refused{"inputs must come in pairs"};
    for (size_t i = 0; i < items.size(); i++) {
      const std::vector<int64_t> shape = call.shape(2 * i);
      const int64_t size = shape.empty() ? 0 : shape[0];
      if (size < 1) throw Refused{"M must be square and not empty"};
      items[i] = {call.matrix(2 * i, size, size), size, call.scalar(2 * i + 1), call.output(i, size, size), nullptr};
    }
    const auto floats = [](int64_t size) {
      const size_t padded = (static_cast<size_t>(size) + kRootUnit - 1) / kRootUnit * kRootUnit;
      return 2 * padded * padded;
    };
    size_t total = 0;
    for (const Item& item : items) total += floats(item.size);
    thread_local Scratch scratch;
    float* at = static_cast<float*>(scratch.ensure(total * sizeof(float)));
    for (Item& item : items) {
      item.work = at;
      at += floats(item.size);
    }
    call.parallel(items.size(), [&](size_t i) {
      const Item& item = items[i];
      arithmetic().spdRoot(item.m, static_cast<size_t>(item.size), item.lambda, item.r, item.work);
    });
  }
};

struct FactorPull {
  static constexpr const char* kName = "FactorPull";
  static constexpr size_t kInputs = 5, kOutputs = 1;
  static constexpr int kCharacteristic = ort::kRequired;
  FactorPull(const ort::Api&, const ort::KernelInfo*) {}

  void run(const Call& call) const {
    const State state(call, 1);
    const float *cross = call.matrix(0, state.rows, state.cols), rho = call.scalar(4);
    float* t = call.output(0, state.rows, state.cols);
    state.eachRow(call, [&](size_t i) {
      arithmetic().pull(cross + i * state.cols, state.row(i), rho, state.cols, t + i * state.cols);
    });
  }
};

struct FactorAdvance {
  static constexpr const char* kName = "FactorAdvance";
  static constexpr size_t kInputs = 4, kOutputs = 3;
  static constexpr int kCharacteristic = ort::kRequired;
  float alpha_ = 1;
  int64_t steps_ = 1;
  FactorAdvance(const ort::Api& api, const ort::KernelInfo* info) {
    check(api.attributeFloat(info, "alpha", &alpha_));
    check(api.attributeInt(info, "steps", &steps_));
    if (steps_ < 0) throw Refused{"steps must not be negative"};
  }

  void run(const Call& call) const {
    const State state(call, 1);
    const size_t k = state.rows, p = state.cols;
    const float* x = call.matrix(0, k, p);
    float *y = call.output(0, k, p), *u = call.output(1, k, 1), *v = call.output(2, 1, p);
    state.eachRow(call, [&](size_t i) { u[i] = arithmetic().advance(x + i * p, state.row(i), alpha_, p, y + i * p); });
    if (steps_ == 0) std::copy(state.v, state.v + p, v);
    const size_t strips = std::max<size_t>(1, kTaskElements / (k * kColumns)), columns = strips * kColumns;
    for (int64_t step = 0; step < steps_; step++) {
      call.parallel((p + columns - 1) / columns, [&](size_t task) {
        for (size_t j = task * columns; j < std::min(p, (task + 1) * columns); j += kColumns) {
          arithmetic().columnSums(y + j, k, p, u, std::min(kColumns, p - j), v + j);
        }
      });
      float squares = 0;
      for (size_t j = 0; j < p; j++) squares += v[j] * v[j];
      const float scale = 1 / (std::sqrt(squares) + 1e-30f);
      for (size_t j = 0; j < p; j++) v[j] *= scale;
      state.eachRow(call, [&](size_t i) { u[i] = arithmetic().weightedSum(y + i * p, v, p); });
    }
  }
};

struct FactorFix {
  static constexpr const char* kName = "FactorFix";
  static constexpr size_t kInputs = 5, kOutputs = 1;
  static constexpr int kCharacteristic = ort::kRequired;
  FactorFix(const ort::Api&, const ort::KernelInfo*) {}

  void run(const Call& call) const {
    const State state(call, 1);
    const float *x = call.matrix(0, state.rows, state.cols), soft = call.scalar(4);
    float* out = call.output(0, state.rows, state.cols);
    state.eachRow(call, [&](size_t i) {
      arithmetic().fix(x + i * state.cols, state.row(i), soft, state.cols, out + i * state.cols);
    });
  }
};

struct SignSearch {
  static constexpr const char* kName = "SignSearch";
  static constexpr size_t kInputs = 3, kOutputs = 1;
  static constexpr int kCharacteristic = ort::kRequired;
  int64_t patience_ = 0, steps_ = 0, tenure_ = 0;
  SignSearch(const ort::Api& api, const ort::KernelInfo* info) {
    check(api.attributeInt(info, "patience", &patience_));
    check(api.attributeInt(info, "steps", &steps_));
    check(api.attributeInt(info, "tenure", &tenure_));
    for (int64_t value : {patience_, steps_, tenure_}) {
      if (value < 0 || value > kMostSteps) throw Refused{"patience, steps and tenure must be from 0 to " + std::to_string(kMostSteps)};
    }
  }

  void run(const Call& call) const {
    const std::vector<int64_t> shape = call.shape(0);
    if (shape.size() != 2 || shape[0] < 1 || shape[1] < 1) throw Refused{"s must be a matrix that is not empty"};
    const size_t p = static_cast<size_t>(shape[0]), k = static_cast<size_t>(shape[1]);
    const float *s = call.matrix(0, shape[0], shape[1]), *r = call.matrix(1, shape[0], shape[1]);
    const float* gram = call.matrix(2, shape[1], shape[1]);
    float* out = call.output(0, shape[0], shape[1]);
    const size_t padded = (k + kSearchUnit - 1) / kSearchUnit * kSearchUnit;
    thread_local Scratch shared;
    float* rows = static_cast<float*>(shared.ensure(k * padded * sizeof(float)));
    for (size_t i = 0; i < k; i++) {
      std::copy(gram + i * k, gram + (i + 1) * k, rows + i * padded);
      std::fill(rows + i * padded + k, rows + (i + 1) * padded, 0.0f);
    }
    std::atomic<bool> failed{false};
    call.parallel((p + kColumns - 1) / kColumns, [&](size_t task) {
      try {
        thread_local Scratch scratch;
        float* at = static_cast<float*>(scratch.ensure((4 * padded + static_cast<size_t>(steps_)) * sizeof(float)));
        SignColumn column{rows, k, padded, at, at + padded, nullptr, reinterpret_cast<int*>(at + 3 * padded), reinterpret_cast<int*>(at + 4 * padded)};
        float* own = at + 2 * padded;
        column.own = own;
        for (size_t j = task * kColumns; j < std::min(p, (task + 1) * kColumns); j++) {
          std::copy(s + j * k, s + (j + 1) * k, column.s);
          std::copy(r + j * k, r + (j + 1) * k, column.r);
          for (size_t i = 0; i < padded; i++) {
            if (i >= k) column.s[i] = column.r[i] = 0;
            own[i] = i < k ? rows[i * padded + i] * column.s[i] * column.s[i] : kNever;
          }
          arithmetic().searchSigns(column, static_cast<int>(patience_), static_cast<int>(steps_), static_cast<int>(tenure_));
          std::copy(column.s, column.s + k, out + j * k);
        }
      } catch (const std::exception&) {
        failed = true;  // exceptions must not cross the host's threads
      }
    });
    if (failed) throw std::bad_alloc();
  }
};

ort::Status* refuse(const ort::Api& api, const char* name, const std::string& message) {
  return api.createStatus(ort::kInvalidArgument, ("Cannot run ai.dbf::" + std::string(name) + " as " + message).c_str());
}

template <typename Operator>
struct Kernel {
  const ort::Api api;
  const Operator op;
};

// Calls `body` and turns what it throws into a status.
template <typename Operator, typename Body>
ort::Status* guarded(const ort::Api& api, const Body& body) {
  try {
    body();
    return nullptr;
  } catch (const Failed& failed) {
    return failed.status;
  } catch (const Refused& refused) {
    return refuse(api, Operator::kName, refused.message);
  } catch (const std::exception& error) {
    return refuse(api, Operator::kName, error.what());
  }
}

template <typename Operator>
ort::CustomOp described() {
  using Self = Kernel<Operator>;
  ort::CustomOp op;
  op.name = [](const ort::CustomOp*) { return Operator::kName; };
  op.executionProvider = [](const ort::CustomOp*) -> const char* { return nullptr; };
  op.inputCount = [](const ort::CustomOp*) -> size_t { return Operator::kInputs; };
  op.outputCount = [](const ort::CustomOp*) -> size_t { return Operator::kOutputs; };
  op.inputType = op.outputType = [](const ort::CustomOp*, size_t) { return ort::kFloat; };
  op.inputCharacteristic = op.outputCharacteristic = [](const ort::CustomOp*, size_t) { return Operator::kCharacteristic; };
  op.inputMemoryType = [](const ort::CustomOp*, size_t) { return ort::kMemoryDefault; };
  op.variadicInputMinArity = [](const ort::CustomOp*) { return 2; };
  op.variadicOutputMinArity = [](const ort::CustomOp*) { return 1; };
  op.variadicInputHomogeneity = op.variadicOutputHomogeneity = [](const ort::CustomOp*) { return 1; };
  op.startVersion = op.endVersion = [](const ort::CustomOp*) { return 1; };
  op.createKernelV2 = [](const ort::CustomOp*, const void* table, const ort::KernelInfo* info, void** out) {
    const ort::Api api(table);
    return guarded<Operator>(api, [&] { *out = new Self{api, Operator(api, info)}; });
  };
  op.kernelComputeV2 = [](void* kernel, ort::KernelContext* context) {
    const Self& self = *static_cast<Self*>(kernel);
    return guarded<Operator>(self.api, [&] { self.op.run(Call(self.api, context)); });
  };
  op.kernelDestroy = [](void* kernel) { delete static_cast<Self*>(kernel); };
  return op;
}

}  // namespace

std::vector<const ort::CustomOp*> factorizerOps() {
  static const ort::CustomOp ops[] = {described<SpdRoot>(), described<FactorPull>(), described<FactorAdvance>(),
                                      described<FactorFix>(), described<SignSearch>()};
  return {&ops[0], &ops[1], &ops[2], &ops[3], &ops[4]};
}

}  // namespace dbf
