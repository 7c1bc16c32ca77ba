// The part of ONNX Runtime's C ABI that an operator library needs, declared from its public documentation
// (https://onnxruntime.ai/docs/api/c/struct_ort_api.html). The function table is append-only: a function keeps its place
// in every later version, so the places below hold for every ONNX Runtime from 1.17 on.
#ifndef DBF_ORT_ABI_H
#define DBF_ORT_ABI_H

#include <cstddef>
#include <cstdint>

namespace dbf::ort {

// The version of the table that we ask for: 17 brought KernelContext_ParallelFor and shape inference of custom operators.
constexpr uint32_t kApiVersion = 17;

// Opaque objects of the runtime.
struct Status;
struct SessionOptions;
struct CustomOpDomain;
struct KernelInfo;
struct KernelContext;
struct ShapeInferContext;
struct OpAttr;
struct Value;
struct TensorInfo;  // OrtTensorTypeAndShapeInfo
using Table = void* const*;  // OrtApi

struct ApiBase {
  Table (*get_api)(uint32_t version);
  const char* (*get_version)();
};

enum ElementType : int { kUndefined = 0, kFloat = 1, kUint8 = 2, kFloat16 = 10 };
enum ErrorCode : int { kFail = 1, kInvalidArgument = 2 };
enum Characteristic : int { kRequired = 0, kOptional = 1, kVariadic = 2 };
enum MemoryType : int { kCpuInput = -2, kDefaultMemory = 0 };
enum AttributeType : int { kAttributeInt = 1 };

// OrtCustomOp, version 17. The runtime reads later members only where `version` says that they exist.
struct CustomOp {
  uint32_t version;
  void* (*create_kernel)(const CustomOp*, Table, const KernelInfo*);
  const char* (*get_name)(const CustomOp*);
  const char* (*get_provider)(const CustomOp*);  // null: the CPU provider
  ElementType (*get_input_type)(const CustomOp*, size_t);
  size_t (*get_input_count)(const CustomOp*);
  ElementType (*get_output_type)(const CustomOp*, size_t);
  size_t (*get_output_count)(const CustomOp*);
  void (*compute_v1)(void* kernel, KernelContext*);
  void (*destroy_kernel)(void* kernel);
  Characteristic (*get_input_characteristic)(const CustomOp*, size_t);
  Characteristic (*get_output_characteristic)(const CustomOp*, size_t);
  MemoryType (*get_input_memory_type)(const CustomOp*, size_t);
  int (*get_variadic_input_min_arity)(const CustomOp*);
  int (*get_variadic_input_homogeneity)(const CustomOp*);
  int (*get_variadic_output_min_arity)(const CustomOp*);
  int (*get_variadic_output_homogeneity)(const CustomOp*);
  Status* (*create_kernel_v2)(const CustomOp*, Table, const KernelInfo*, void** kernel);
  Status* (*compute)(void* kernel, KernelContext*);
  Status* (*infer_shape)(const CustomOp*, ShapeInferContext*);
  int (*get_start_version)(const CustomOp*);
  int (*get_end_version)(const CustomOp*);
  // Members of later versions, present so that a runtime that reads them unasked finds null.
  void* later[8];
};

// Typed access to the table. Every function that returns Status* returns null for success.
class Api {
 public:
  Api() = default;
  explicit Api(Table table) : table_(table) {}

  Status* create_status(ErrorCode code, const char* message) const { return at<Status*(ErrorCode, const char*)>(0)(code, message); }
  void release_status(Status* status) const { at<void(Status*)>(93)(status); }
  const char* error_message(const Status* status) const { return at<const char*(const Status*)>(2)(status); }

  Status* create_domain(const char* name, CustomOpDomain** out) const { return at<Status*(const char*, CustomOpDomain**)>(26)(name, out); }
  Status* add_op(CustomOpDomain* domain, const CustomOp* op) const { return at<Status*(CustomOpDomain*, const CustomOp*)>(27)(domain, op); }
  Status* add_domain(SessionOptions* options, CustomOpDomain* domain) const {
    return at<Status*(SessionOptions*, CustomOpDomain*)>(28)(options, domain);
  }
  Status* has_config_entry(const SessionOptions* options, const char* key, int* out) const {
    return at<Status*(const SessionOptions*, const char*, int*)>(237)(options, key, out);
  }
  // `size` counts the closing zero; with `value` null only the size is told.
  Status* get_config_entry(const SessionOptions* options, const char* key, char* value, size_t* size) const {
    return at<Status*(const SessionOptions*, const char*, char*, size_t*)>(238)(options, key, value, size);
  }

  Status* attribute(const KernelInfo* info, const char* name, int64_t* out) const {
    return at<Status*(const KernelInfo*, const char*, int64_t*)>(86)(info, name, out);
  }
  // `size` counts the closing zero; with `out` null only the size is told.
  Status* attribute(const KernelInfo* info, const char* name, char* out, size_t* size) const {
    return at<Status*(const KernelInfo*, const char*, char*, size_t*)>(87)(info, name, out, size);
  }

  Status* input_count(const KernelContext* context, size_t* out) const { return at<Status*(const KernelContext*, size_t*)>(88)(context, out); }
  Status* input(const KernelContext* context, size_t index, const Value** out) const {
    return at<Status*(const KernelContext*, size_t, const Value**)>(90)(context, index, out);
  }
  Status* output(KernelContext* context, size_t index, const int64_t* dims, size_t rank, Value** out) const {
    return at<Status*(KernelContext*, size_t, const int64_t*, size_t, Value**)>(91)(context, index, dims, rank, out);
  }
  // Calls task(argument, i) for every i < total on the session's threads; `batches` 0 leaves the division to the runtime.
  Status* parallel_for(const KernelContext* context, void (*task)(void*, size_t), size_t total, size_t batches, void* argument) const {
    return at<Status*(const KernelContext*, void (*)(void*, size_t), size_t, size_t, void*)>(274)(context, task, total, batches, argument);
  }
  // CUDA provider: the cudaStream_t on which the node must launch its work.
  Status* gpu_stream(const KernelContext* context, void** out) const { return at<Status*(const KernelContext*, void**)>(193)(context, out); }

  // The result is the caller's, see release_info.
  Status* tensor_info(const Value* value, TensorInfo** out) const { return at<Status*(const Value*, TensorInfo**)>(65)(value, out); }
  void release_info(TensorInfo* info) const { at<void(TensorInfo*)>(99)(info); }
  Status* element_type(const TensorInfo* info, ElementType* out) const { return at<Status*(const TensorInfo*, ElementType*)>(60)(info, out); }
  Status* rank(const TensorInfo* info, size_t* out) const { return at<Status*(const TensorInfo*, size_t*)>(61)(info, out); }
  Status* dims(const TensorInfo* info, int64_t* out, size_t rank) const {
    return at<Status*(const TensorInfo*, int64_t*, size_t)>(62)(info, out, rank);
  }
  Status* mutable_data(Value* value, void** out) const { return at<Status*(Value*, void**)>(51)(value, out); }
  Status* data(const Value* value, const void** out) const {
    return mutable_data(const_cast<Value*>(value), const_cast<void**>(out));
  }

  Status* infer_attribute(const ShapeInferContext* context, const char* name, const OpAttr** out) const {
    return at<Status*(const ShapeInferContext*, const char*, const OpAttr**)>(269)(context, name, out);
  }
  Status* read_attribute(const OpAttr* attribute, AttributeType type, void* data, size_t bytes, size_t* out) const {
    return at<Status*(const OpAttr*, AttributeType, void*, size_t, size_t*)>(272)(attribute, type, data, bytes, out);
  }
  // Owned by the context.
  Status* infer_input(const ShapeInferContext* context, size_t index, TensorInfo** out) const {
    return at<Status*(const ShapeInferContext*, size_t, TensorInfo**)>(268)(context, index, out);
  }
  Status* infer_output(const ShapeInferContext* context, size_t index, const TensorInfo* info) const {
    return at<Status*(const ShapeInferContext*, size_t, const TensorInfo*)>(270)(context, index, info);
  }

 private:
  template <typename F>
  F* at(size_t place) const {
    return reinterpret_cast<F*>(table_[place]);
  }
  Table table_ = nullptr;
};

}  // namespace dbf::ort

#endif  // DBF_ORT_ABI_H
