// TensorRT and TensorRT-RTX, which share an API: engines that were built ahead and checked by machine.cpp.
//
// NEVER COMPILED against their headers and never run: no machine that this was written on had them. It was only parsed
// against declarations written by hand. Hence its options are OFF unless asked for.
#include <NvInfer.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdlib>
#include <mutex>
#include <utility>

#include "backend.hpp"
#include "clouds/error.hpp"
#include "files.hpp"

namespace clouds {
namespace {

void require(cudaError_t status, const char* what) {
  if (status != cudaSuccess) {
    throw Error(std::string("CUDA cannot ") + what + ": " + cudaGetErrorString(status), "check the GPU and its memory");
  }
}

std::size_t bytes_of(const std::string& dtype) {
  if (dtype == "uint8") return 1;
  if (dtype == "float16") return 2;
  return dtype == "int64" ? 8 : 4;
}

// Keeps what TensorRT said last: its calls give no reason.
class Log : public nvinfer1::ILogger {
 public:
  void log(Severity severity, const char* text) noexcept override {
    if (severity > Severity::kERROR) return;
    const std::lock_guard lock(mutex_);
    try {
      last_ = text;
    } catch (...) {
    }
  }
  std::string last() {
    const std::lock_guard lock(mutex_);
    return last_.empty() ? "it gave no reason" : first_line(last_);
  }

 private:
  std::mutex mutex_;
  std::string last_;
};

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

nvinfer1::Dims dims_of(const Shape& shape) {
  nvinfer1::Dims out{};
  out.nbDims = static_cast<std::int32_t>(shape.size());
  std::copy(shape.begin(), shape.end(), out.d);
  return out;
}

class TensorRtGraph : public Graph {
 public:
  TensorRtGraph(const GraphFile& file, const Options& options) : inputs_(file.inputs), outputs_(file.outputs) {
    if (options.precision != "fp32") {
      throw Error("an engine runs in the precision it was built in, not `" + options.precision + "`",
                  "use the openvino backend for bf16");
    }
    const std::vector<std::uint8_t> engine = read_bytes(file.path);
    runtime_.reset(nvinfer1::createInferRuntime(log_));
    if (runtime_) engine_.reset(runtime_->deserializeCudaEngine(engine.data(), engine.size()));
    if (!engine_) {
      throw Error("TensorRT refuses " + file.path.string() + ": " + log_.last(), "export it again on this machine");
    }
  }

  std::unique_ptr<Request> request() override;
  std::string device() const override { return "cuda"; }

  const std::vector<TensorSpec>& inputs() const { return inputs_; }
  const std::vector<TensorSpec>& outputs() const { return outputs_; }
  nvinfer1::ICudaEngine& engine() { return *engine_; }
  [[noreturn]] void failed(const std::string& what) {
    throw Error("TensorRT failed to " + what + ": " + log_.last(), "run clouds_selftest on the bundle");
  }

 private:
  std::vector<TensorSpec> inputs_, outputs_;
  Log log_;
  std::unique_ptr<nvinfer1::IRuntime> runtime_;
  std::unique_ptr<nvinfer1::ICudaEngine> engine_;
};

// A context and a stream of its own; pixels are copied to the GPU and labels back.
class TensorRtRequest : public Request {
 public:
  explicit TensorRtRequest(TensorRtGraph& graph)
      : graph_(graph),
        context_(graph.engine().createExecutionContext()),
        in_(graph.inputs().size()),
        out_(graph.outputs().size()) {
    if (!context_) graph_.failed("make a context");
    require(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "make a stream");
  }
  ~TensorRtRequest() override { cudaStreamDestroy(stream_); }

  void run(const std::vector<Input>& inputs, const std::vector<Output>& outputs) override {
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      const TensorSpec& spec = graph_.inputs()[i];
      const std::size_t bytes = static_cast<std::size_t>(elements(inputs[i].shape)) * bytes_of(spec.dtype);
      void* memory = in_[i].hold(bytes);
      require(cudaMemcpyAsync(memory, inputs[i].data, bytes, cudaMemcpyHostToDevice, stream_), "copy to the GPU");
      if (!context_->setInputShape(spec.name.c_str(), dims_of(inputs[i].shape)) ||
          !context_->setTensorAddress(spec.name.c_str(), memory)) {
        graph_.failed("take input `" + spec.name + "`: is the batch one that the engine was built for?");
      }
    }
    for (std::size_t i = 0; i < outputs.size(); ++i) {
      void* memory = out_[i].hold(bytes(i, outputs[i]));
      const std::string& name = graph_.outputs()[i].name;
      if (!context_->setTensorAddress(name.c_str(), memory)) graph_.failed("give output `" + name + "`");
    }
    if (!context_->enqueueV3(stream_)) graph_.failed("run");
    for (std::size_t i = 0; i < outputs.size(); ++i) {
      void* memory = out_[i].hold(bytes(i, outputs[i]));
      require(cudaMemcpyAsync(outputs[i].data, memory, bytes(i, outputs[i]), cudaMemcpyDeviceToHost, stream_),
              "copy from the GPU");
    }
    require(cudaStreamSynchronize(stream_), "finish");
  }

 private:
  std::size_t bytes(std::size_t i, const Output& output) const {
    return static_cast<std::size_t>(elements(output.shape)) * bytes_of(graph_.outputs()[i].dtype);
  }

  TensorRtGraph& graph_;
  std::unique_ptr<nvinfer1::IExecutionContext> context_;
  std::vector<DeviceMemory> in_, out_;
  cudaStream_t stream_ = nullptr;
};

std::unique_ptr<Request> TensorRtGraph::request() { return std::make_unique<TensorRtRequest>(*this); }

}  // namespace

std::unique_ptr<Graph> open_tensorrt(const GraphFile& file, const Options& options) {
  return std::make_unique<TensorRtGraph>(file, options);
}

std::string tensorrt_version() {
  return std::to_string(getInferLibMajorVersion()) + "." + std::to_string(getInferLibMinorVersion()) + "." +
         std::to_string(getInferLibPatchVersion()) + "." + std::to_string(getInferLibBuildVersion());
}

}  // namespace clouds
