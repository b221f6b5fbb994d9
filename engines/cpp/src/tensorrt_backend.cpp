// TensorRT and TensorRT-RTX, which share an API: engines that were built ahead and checked by machine.cpp.
//
// Compiled against the headers of TensorRT 10.3, 10.13 and 11.1 and never run: no machine that this was written on had a
// GPU. Hence its options are OFF unless asked for.
#include <NvInfer.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <utility>

#include "backend.hpp"
#include "clouds/error.hpp"
#include "files.hpp"
#include "tensorrt_common.hpp"

namespace clouds {
namespace {

std::size_t bytes_of(const std::string& dtype) {
  if (dtype == "uint8") return 1;
  if (dtype == "float16") return 2;
  return dtype == "int64" ? 8 : 4;
}

// A buffer on the GPU that grows.
class DeviceMemory {
 public:
  DeviceMemory() = default;
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;
  ~DeviceMemory() { cudaFree(data_); }
  void* hold(std::size_t bytes) {
    if (bytes > size_) {
      cudaFree(data_);
      data_ = nullptr;
      size_ = 0;
      require(cudaMalloc(&data_, bytes), "allocate memory");
      size_ = bytes;
    }
    return data_;
  }

 private:
  void* data_ = nullptr;
  std::size_t size_ = 0;
};

nvinfer1::DataType type_of(const std::string& dtype) {
  if (dtype == "uint8") return nvinfer1::DataType::kUINT8;
  if (dtype == "int32") return nvinfer1::DataType::kINT32;
  if (dtype == "int64") return nvinfer1::DataType::kINT64;
  if (dtype == "float16") return nvinfer1::DataType::kHALF;
  return nvinfer1::DataType::kFLOAT;
}

int device_of(const Options& options) {
  const int index = options.device == "cpu" ? 0 : cuda_index(options.device);  // cpu is the default of all backends
  if (index < 0) throw Error("TensorRT has no device `" + options.device + "`", "known: `cuda`, `cuda:N`");
  int count = 0;
  require(cudaGetDeviceCount(&count), "count its devices");
  if (index >= count) {
    throw Error("there is no device cuda:" + std::to_string(index) + ": CUDA sees " + std::to_string(count),
                "choose another, or change CUDA_VISIBLE_DEVICES");
  }
  return index;
}

class TensorRtGraph : public Graph {
 public:
  TensorRtGraph(const GraphFile& file, const Options& options)
      : inputs_(file.inputs), outputs_(file.outputs), index_(device_of(options)) {
    if (options.precision != "fp32") {
      throw Error("an engine runs in the precision it was built in, not `" + options.precision + "`",
                  "export the run again, with --fp16");
    }
    const OnDevice here(index_);
    const std::vector<std::uint8_t> engine = read_bytes(file.path);
    runtime_.reset(nvinfer1::createInferRuntime(log_));
    if (runtime_ && file.host_code) runtime_->setEngineHostCodeAllowed(true);
    if (runtime_) engine_.reset(runtime_->deserializeCudaEngine(engine.data(), engine.size()));
    if (!engine_) {
      throw Error("TensorRT refuses " + file.path.string() + ": " + log_.last(), "export it again on this machine");
    }
    for (const TensorSpec& spec : inputs_) check(spec, nvinfer1::TensorIOMode::kINPUT);
    for (const TensorSpec& spec : outputs_) check(spec, nvinfer1::TensorIOMode::kOUTPUT);
  }

  std::unique_ptr<Request> request() override;
  std::string device() const override { return "cuda:" + std::to_string(index_); }
  bool on_gpu() const override { return true; }

  int index() const { return index_; }
  const std::vector<TensorSpec>& inputs() const { return inputs_; }
  const std::vector<TensorSpec>& outputs() const { return outputs_; }
  nvinfer1::ICudaEngine& engine() { return *engine_; }
  [[noreturn]] void failed(const std::string& what) {
    throw Error("TensorRT failed to " + what + ": " + log_.last(), "run clouds_selftest on the bundle");
  }

 private:
  void check(const TensorSpec& spec, nvinfer1::TensorIOMode mode) const {
    const char* name = spec.name.c_str();
    if (engine_->getTensorIOMode(name) != mode || engine_->getTensorDataType(name) != type_of(spec.dtype)) {
      throw Error("the engine has no " + spec.dtype + " `" + spec.name + "`", "export the run again");
    }
    const nvinfer1::Dims own = engine_->getTensorShape(name);
    check_shape(spec, Shape(own.d, own.d + std::max(own.nbDims, 0)));
  }

  std::vector<TensorSpec> inputs_, outputs_;
  int index_;
  Log log_;
  std::unique_ptr<nvinfer1::IRuntime> runtime_;
  std::unique_ptr<nvinfer1::ICudaEngine> engine_;
};

// A context and a stream of its own. What lies in the caller's memory of the host is copied to the GPU and back; what
// lies on the GPU is used there.
class TensorRtRequest : public Request {
 public:
  explicit TensorRtRequest(TensorRtGraph& graph)
      : graph_(graph), in_(graph.inputs().size()), out_(graph.outputs().size()) {
    const OnDevice here(graph_.index());
    context_.reset(graph_.engine().createExecutionContext());
    if (!context_) graph_.failed("make a context");
    require(cudaStreamCreateWithFlags(&own_, cudaStreamNonBlocking), "make a stream");
    require(cudaEventCreateWithFlags(&done_, cudaEventDisableTiming), "make an event");
  }
  ~TensorRtRequest() override {
    cudaEventSynchronize(done_);  // the caller's stream may still be at it
    cudaEventDestroy(done_);
    cudaStreamDestroy(own_);
  }

  void run(const std::vector<Input>& inputs, const std::vector<Output>& outputs, const Stream& given) override {
    const OnDevice here(graph_.index());
    const cudaStream_t stream = given.given ? static_cast<cudaStream_t>(given.handle) : own_;
    require(cudaStreamWaitEvent(stream, done_, 0), "wait for the call before");  // which may be on another stream
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      const TensorSpec& spec = graph_.inputs()[i];
      const void* memory = inputs[i].data;
      if (inputs[i].on_device) {
        check_pointer(memory, spec);
      } else {
        const std::size_t size = static_cast<std::size_t>(elements(inputs[i].shape)) * bytes_of(spec.dtype);
        void* copy = in_[i].hold(size);
        require(cudaMemcpyAsync(copy, memory, size, cudaMemcpyHostToDevice, stream), "copy to the GPU");
        memory = copy;
      }
      if (!context_->setInputShape(spec.name.c_str(), dims_of(inputs[i].shape)) ||
          !context_->setInputTensorAddress(spec.name.c_str(), memory)) {
        graph_.failed("take input `" + spec.name + "`: is the batch one that the engine was built for?");
      }
    }
    bool wanted = false;
    for (std::size_t i = 0; i < outputs.size(); ++i) {
      const TensorSpec& spec = graph_.outputs()[i];
      const bool direct = outputs[i].on_device && outputs[i].data != nullptr;
      if (direct) check_pointer(outputs[i].data, spec);
      void* memory = direct ? outputs[i].data : out_[i].hold(bytes(i, outputs[i]));
      if (!context_->setTensorAddress(spec.name.c_str(), memory)) graph_.failed("give output `" + spec.name + "`");
      wanted = wanted || (!outputs[i].on_device && outputs[i].data != nullptr);
    }
    if (!context_->enqueueV3(stream)) graph_.failed("run");
    for (std::size_t i = 0; i < outputs.size(); ++i) {
      if (outputs[i].on_device || outputs[i].data == nullptr) continue;
      void* memory = out_[i].hold(bytes(i, outputs[i]));
      require(cudaMemcpyAsync(outputs[i].data, memory, bytes(i, outputs[i]), cudaMemcpyDeviceToHost, stream),
              "copy from the GPU");
    }
    require(cudaEventRecord(done_, stream), "record an event");
    if (wanted || !given.given) require(cudaStreamSynchronize(stream), "finish");
  }

 private:
  std::size_t bytes(std::size_t i, const Output& output) const {
    return static_cast<std::size_t>(elements(output.shape)) * bytes_of(graph_.outputs()[i].dtype);
  }

  // A pointer to the host's memory, or to another GPU's, would end in an illegal access that CUDA does not recover from.
  void check_pointer(const void* pointer, const TensorSpec& spec) const {
    cudaPointerAttributes found{};
    const bool known = cudaPointerGetAttributes(&found, pointer) == cudaSuccess;
    const bool managed = known && found.type == cudaMemoryTypeManaged;
    const bool own = known && found.type == cudaMemoryTypeDevice && found.device == graph_.index();
    if (!managed && !own) {
      cudaGetLastError();
      throw Error("`" + spec.name + "` is in no memory of " + graph_.device(), "copy it there, or call segment");
    }
  }

  TensorRtGraph& graph_;
  std::unique_ptr<nvinfer1::IExecutionContext> context_;
  std::vector<DeviceMemory> in_, out_;
  cudaStream_t own_ = nullptr;
  cudaEvent_t done_ = nullptr;
};

std::unique_ptr<Request> TensorRtGraph::request() { return std::make_unique<TensorRtRequest>(*this); }

}  // namespace

std::unique_ptr<Graph> open_tensorrt(const GraphFile& file, const Options& options) {
  return std::make_unique<TensorRtGraph>(file, options);
}

CudaDevice cuda_device(int index) {
  CudaDevice out;
  char id[32] = "";
  cudaDeviceProp properties{};
  int count = 0, version = 0;
  const auto text = [](int cuda) { return std::to_string(cuda / 1000) + "." + std::to_string(cuda % 1000 / 10); };
  const cudaError_t status = cudaGetDeviceCount(&count);
  out.asked = status == cudaSuccess || status == cudaErrorNoDevice;
  if (cudaRuntimeGetVersion(&version) == cudaSuccess) out.runtime = text(version);
  if (cudaDriverGetVersion(&version) == cudaSuccess && version > 0) out.driver = text(version);
  if (cudaDeviceGetPCIBusId(id, sizeof id, index) == cudaSuccess) out.pci_bus_id = id;
  if (cudaGetDeviceProperties(&properties, index) == cudaSuccess) {
    out.sm = std::to_string(properties.major) + std::to_string(properties.minor);
    out.name = properties.name;
  }
  cudaGetLastError();
  return out;
}

std::string tensorrt_version() {
  return std::to_string(getInferLibMajorVersion()) + "." + std::to_string(getInferLibMinorVersion()) + "." +
         std::to_string(getInferLibPatchVersion()) + "." + std::to_string(getInferLibBuildVersion());
}

}  // namespace clouds
