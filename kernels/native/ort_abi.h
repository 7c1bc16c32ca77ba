// What dbf's operator library uses of ONNX Runtime's C API, declared by us so that no header of it is needed.
//
// The ABI is public and append-only: a function keeps its place in the table `OrtApi` in all later versions
// (https://onnxruntime.ai/docs/api/c/struct_ort_api.html), and OrtCustomOp only grows at its end.
// A host must offer API version 17 (ONNX Runtime 1.17); functions of later versions are asked for by version.
#pragma once
#include <cstddef>
#include <cstdint>

#if defined(_WIN32)
#define DBF_EXPORT extern "C" __declspec(dllexport)
#define DBF_ORT_CALL __stdcall
#else
#define DBF_EXPORT extern "C" __attribute__((visibility("default")))
#define DBF_ORT_CALL
#endif

namespace dbf::ort {

// Opaque objects of ONNX Runtime.
struct Status;
struct SessionOptions;
struct CustomOpDomain;
struct Value;
struct KernelInfo;
struct KernelContext;
struct ShapeInferContext;
struct TensorTypeAndShapeInfo;
struct MemoryInfo;
struct OpAttr;
struct KeyValuePairs;

// OrtErrorCode
constexpr int kFail = 1, kInvalidArgument = 2;
// ONNXTensorElementDataType
constexpr int kFloat = 1, kUint8 = 2, kFloat16 = 10;
// OrtOpAttrType
constexpr int kAttributeInt = 1;
// OrtCustomOpInputOutputCharacteristic
constexpr int kRequired = 0, kVariadic = 2;
// OrtMemType
constexpr int kMemoryDefault = 0;

// Lowest version with everything below but the functions marked otherwise.
constexpr uint32_t kApiVersion = 17;
// First version with KernelInfo_GetConfigEntries.
constexpr uint32_t kConfigEntriesVersion = 24;

// The table OrtApi, seen as places; every call names its signature once, here.
class Api {
 public:
  explicit Api(const void* table = nullptr) : table_(static_cast<void* const*>(table)) {}
  explicit operator bool() const { return table_ != nullptr; }

  Status* createStatus(int code, const char* message) const { return call<Status*>(0, code, message); }
  void releaseStatus(Status* status) const { call<void>(93, status); }

  // Registration
  Status* createCustomOpDomain(const char* name, CustomOpDomain** out) const { return call<Status*>(26, name, out); }
  Status* customOpDomainAdd(CustomOpDomain* domain, const struct CustomOp* op) const {
    return call<Status*>(27, domain, op);
  }
  Status* addCustomOpDomain(SessionOptions* options, CustomOpDomain* domain) const {
    return call<Status*>(28, options, domain);
  }

  // Making a kernel
  Status* attributeInt(const KernelInfo* info, const char* name, int64_t* out) const {
    return call<Status*>(86, info, name, out);
  }
  // From kConfigEntriesVersion on: the session's configuration, owned by the caller.
  Status* configEntries(const KernelInfo* info, KeyValuePairs** out) const { return call<Status*>(391, info, out); }
  // nullptr when the key is absent.
  const char* getKeyValue(const KeyValuePairs* pairs, const char* key) const {
    return call<const char*>(297, pairs, key);
  }
  void releaseKeyValuePairs(KeyValuePairs* pairs) const { call<void>(300, pairs); }

  Status* attributeFloat(const KernelInfo* info, const char* name, float* out) const {
    return call<Status*>(85, info, name, out);
  }

  // Running a kernel
  Status* inputCount(const KernelContext* context, size_t* out) const { return call<Status*>(88, context, out); }
  Status* input(const KernelContext* context, size_t index, const Value** out) const {
    return call<Status*>(90, context, index, out);
  }
  Status* output(KernelContext* context, size_t index, const int64_t* shape, size_t rank, Value** out) const {
    return call<Status*>(91, context, index, shape, rank, out);
  }
  // The cudaStream_t of a kernel of the CUDA provider.
  Status* gpuComputeStream(const KernelContext* context, void** out) const { return call<Status*>(193, context, out); }
  // Provider resources by number (CUDA: 10000 and on).
  Status* resource(const KernelContext* context, int version, int id, void** out) const {
    return call<Status*>(265, context, version, id, out);
  }
  // Calls f(data, i) for i < total on the session's threads, in `batches` batches (0: one each), and waits for them.
  Status* parallelFor(const KernelContext* context, void (*f)(void*, size_t), size_t total, size_t batches,
                      void* data) const {
    return call<Status*>(274, context, f, total, batches, data);
  }
  // Memory of the provider that lives until the kernel returns.
  Status* scratchBuffer(const KernelContext* context, const MemoryInfo* memory, size_t bytes, void** out) const {
    return call<Status*>(277, context, memory, bytes, out);
  }
  // The memory information of a tensor, owned by it.
  Status* tensorMemoryInfo(const Value* value, const MemoryInfo** out) const { return call<Status*>(194, value, out); }
  Status* tensorData(const Value* value, void** out) const { return call<Status*>(51, value, out); }

  // Shapes; the info is owned by the caller
  Status* tensorInfo(const Value* value, TensorTypeAndShapeInfo** out) const { return call<Status*>(65, value, out); }
  void releaseTensorInfo(TensorTypeAndShapeInfo* info) const { call<void>(99, info); }
  Status* elementType(const TensorTypeAndShapeInfo* info, int* out) const { return call<Status*>(60, info, out); }
  Status* rank(const TensorTypeAndShapeInfo* info, size_t* out) const { return call<Status*>(61, info, out); }
  Status* shape(const TensorTypeAndShapeInfo* info, int64_t* out, size_t rank) const {
    return call<Status*>(62, info, out, rank);
  }
  Status* symbolicShape(const TensorTypeAndShapeInfo* info, const char** out, size_t rank) const {
    return call<Status*>(63, info, out, rank);
  }
  Status* createTensorInfo(TensorTypeAndShapeInfo** out) const { return call<Status*>(57, out); }
  Status* setElementType(TensorTypeAndShapeInfo* info, int type) const { return call<Status*>(58, info, type); }
  Status* setShape(TensorTypeAndShapeInfo* info, const int64_t* shape, size_t rank) const {
    return call<Status*>(59, info, shape, rank);
  }
  Status* setSymbolicShape(TensorTypeAndShapeInfo* info, const char* const* names, size_t rank) const {
    return call<Status*>(271, info, names, rank);
  }

  // Shape inference; the input's info is owned by the context
  Status* inferInput(const ShapeInferContext* context, size_t index, TensorTypeAndShapeInfo** out) const {
    return call<Status*>(268, context, index, out);
  }
  Status* inferAttribute(const ShapeInferContext* context, const char* name, const OpAttr** out) const {
    return call<Status*>(269, context, name, out);
  }
  Status* inferOutput(const ShapeInferContext* context, size_t index, const TensorTypeAndShapeInfo* info) const {
    return call<Status*>(270, context, index, info);
  }
  Status* readAttribute(const OpAttr* attribute, int type, void* data, size_t bytes, size_t* out) const {
    return call<Status*>(272, attribute, type, data, bytes, out);
  }

 private:
  template <typename R, typename... Arguments>
  R call(size_t place, Arguments... arguments) const {
    using Function = R(DBF_ORT_CALL*)(Arguments...);
    return reinterpret_cast<Function>(table_[place])(arguments...);
  }
  void* const* table_;
};

// OrtApiBase
struct ApiBase {
  const void*(DBF_ORT_CALL* getApi)(uint32_t version);  // nullptr when the host is older
  const char*(DBF_ORT_CALL* getVersionString)();
};

// OrtCustomOp up to version 20; unset callbacks are optional.
struct CustomOp {
  uint32_t version = kApiVersion;
  void*(DBF_ORT_CALL* createKernel)(const CustomOp*, const void* api, const KernelInfo*) = nullptr;
  const char*(DBF_ORT_CALL* name)(const CustomOp*) = nullptr;
  const char*(DBF_ORT_CALL* executionProvider)(const CustomOp*) = nullptr;  // returns nullptr for the CPU
  int(DBF_ORT_CALL* inputType)(const CustomOp*, size_t index) = nullptr;
  size_t(DBF_ORT_CALL* inputCount)(const CustomOp*) = nullptr;
  int(DBF_ORT_CALL* outputType)(const CustomOp*, size_t index) = nullptr;
  size_t(DBF_ORT_CALL* outputCount)(const CustomOp*) = nullptr;
  void(DBF_ORT_CALL* kernelCompute)(void* kernel, KernelContext*) = nullptr;
  void(DBF_ORT_CALL* kernelDestroy)(void* kernel) = nullptr;
  int(DBF_ORT_CALL* inputCharacteristic)(const CustomOp*, size_t index) = nullptr;
  int(DBF_ORT_CALL* outputCharacteristic)(const CustomOp*, size_t index) = nullptr;
  int(DBF_ORT_CALL* inputMemoryType)(const CustomOp*, size_t index) = nullptr;
  int(DBF_ORT_CALL* variadicInputMinArity)(const CustomOp*) = nullptr;
  int(DBF_ORT_CALL* variadicInputHomogeneity)(const CustomOp*) = nullptr;
  int(DBF_ORT_CALL* variadicOutputMinArity)(const CustomOp*) = nullptr;
  int(DBF_ORT_CALL* variadicOutputHomogeneity)(const CustomOp*) = nullptr;
  Status*(DBF_ORT_CALL* createKernelV2)(const CustomOp*, const void* api, const KernelInfo*, void** kernel) = nullptr;
  Status*(DBF_ORT_CALL* kernelComputeV2)(void* kernel, KernelContext*) = nullptr;
  Status*(DBF_ORT_CALL* inferOutputShape)(const CustomOp*, ShapeInferContext*) = nullptr;
  int(DBF_ORT_CALL* startVersion)(const CustomOp*) = nullptr;
  int(DBF_ORT_CALL* endVersion)(const CustomOp*) = nullptr;
  size_t(DBF_ORT_CALL* mayInplace)(int** inputs, int** outputs) = nullptr;
  void(DBF_ORT_CALL* releaseMayInplace)(int* inputs, int* outputs) = nullptr;
  size_t(DBF_ORT_CALL* aliasMap)(int** inputs, int** outputs) = nullptr;
  void(DBF_ORT_CALL* releaseAliasMap)(int* inputs, int* outputs) = nullptr;
};

}  // namespace dbf::ort
