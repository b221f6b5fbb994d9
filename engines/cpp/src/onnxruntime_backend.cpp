// ONNX Runtime, set up as clouds_deploy.backends.onnxruntime_session.
#include <onnxruntime_cxx_api.h>

#include <cstdlib>

#include "backend.hpp"
#include "clouds/error.hpp"

namespace clouds {
namespace {

ONNXTensorElementDataType type_of(const std::string& dtype) {
  if (dtype == "uint8") return ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8;
  if (dtype == "int32") return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32;
  if (dtype == "int64") return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64;
  if (dtype == "float16") return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16;
  return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
}

std::size_t bytes_of(const std::string& dtype) {
  if (dtype == "uint8") return 1;
  if (dtype == "float16") return 2;
  return dtype == "int64" ? 8 : 4;
}

Ort::Value wrap(const Ort::MemoryInfo& memory, const TensorSpec& spec, void* data, const Shape& shape) {
  return Ort::Value::CreateTensor(memory, data, static_cast<std::size_t>(elements(shape)) * bytes_of(spec.dtype),
                                  shape.data(), shape.size(), type_of(spec.dtype));
}

// Without telemetry: ONNX Runtime's builds of 1.31 and later look up its vendor's host and write to the user's cache.
// The variable counts when the environment is made; the call, for builds that only know it, comes after. A value that
// the caller's program has set stays.
Ort::Env& environment() {
  static Ort::Env env = [] {
#if defined(_WIN32)
    if (std::getenv("ORT_DISABLE_TELEMETRY") == nullptr) _putenv_s("ORT_DISABLE_TELEMETRY", "1");
#else
    setenv("ORT_DISABLE_TELEMETRY", "1", 0);
#endif
    Ort::Env made(ORT_LOGGING_LEVEL_ERROR, "clouds");
    made.DisableTelemetryEvents();
    return made;
  }();
  return env;
}

class OnnxRuntimeGraph : public Graph {
 public:
  OnnxRuntimeGraph(const GraphFile& file, const Options& options) : inputs_(file.inputs), outputs_(file.outputs) {
    const int gpu = cuda_index(options.device);
    if (options.device != "cpu" && gpu < 0) {
      throw Error("onnxruntime has no device `" + options.device + "`", "known: `cpu`, `cuda`, `cuda:N`");
    }
    if (options.cuda_stream != nullptr && gpu < 0) {
      throw Error("a CUDA stream is of no use on device `" + options.device + "`", "open it on `cuda:N`");
    }
    if (options.precision != "fp32") {
      throw Error("onnxruntime runs a graph in the precision it is written in, not `" + options.precision + "`",
                  "use the openvino backend for bf16");
    }
    environment();  // before anything that may want to log
    try {
      Ort::SessionOptions settings;
      settings.SetLogSeverityLevel(3);
      if (options.threads > 0) settings.SetIntraOpNumThreads(options.threads);
      if (gpu >= 0) add_cuda(settings, gpu, options.cuda_stream);
      session_ = Ort::Session(environment(), file.path.c_str(), settings);
    } catch (const Ort::Exception& error) {
      throw Error("onnxruntime refuses " + file.path.string() + ": " + first_line(error.what()),
                  "export the run again");
    }
    for (const TensorSpec& spec : inputs_) input_names_.push_back(spec.name.c_str());
    for (const TensorSpec& spec : outputs_) output_names_.push_back(spec.name.c_str());
    for (std::size_t i = 0; i < inputs_.size(); ++i) check_port(inputs_[i], true);
    for (std::size_t i = 0; i < outputs_.size(); ++i) check_port(outputs_[i], false);
    device_ = gpu < 0 ? "cpu" : "cuda:" + std::to_string(gpu);
    stream_ = options.cuda_stream;
    if (gpu >= 0) gpu_memory_ = Ort::MemoryInfo("Cuda", OrtDeviceAllocator, gpu, OrtMemTypeDefault);
  }

  std::unique_ptr<Request> request() override;
  std::string device() const override { return device_; }
  bool on_gpu() const override { return device_ != "cpu"; }

  void run(const std::vector<Input>& inputs, const std::vector<Output>& outputs, const Stream& stream) {
    if (stream.given && stream.handle != stream_) {
      throw Error("onnxruntime runs on the stream that it was opened with", "set Options::cuda_stream to the stream");
    }
    std::vector<Ort::Value> in, out;
    std::vector<const char*> names;
    for (std::size_t i = 0; i < inputs_.size(); ++i) {
      const Ort::MemoryInfo& memory = inputs[i].on_device ? gpu_memory_ : memory_;
      in.push_back(wrap(memory, inputs_[i], const_cast<void*>(inputs[i].data), inputs[i].shape));
    }
    for (std::size_t i = 0; i < outputs_.size(); ++i) {
      if (outputs[i].data == nullptr) continue;
      const Ort::MemoryInfo& memory = outputs[i].on_device ? gpu_memory_ : memory_;
      out.push_back(wrap(memory, outputs_[i], outputs[i].data, outputs[i].shape));
      names.push_back(output_names_[i]);
    }
    try {
      session_.Run(Ort::RunOptions{nullptr}, input_names_.data(), in.data(), in.size(), names.data(), out.data(),
                   out.size());
    } catch (const Ort::Exception& error) {
      throw Error("onnxruntime failed: " + first_line(error.what()), "run clouds_selftest on the bundle");
    }
  }

 private:
  void check_port(const TensorSpec& spec, bool input) const {
    Ort::AllocatorWithDefaultOptions allocator;
    const std::size_t count = input ? session_.GetInputCount() : session_.GetOutputCount();
    for (std::size_t i = 0; i < count; ++i) {
      const auto name = input ? session_.GetInputNameAllocated(i, allocator) : session_.GetOutputNameAllocated(i, allocator);
      if (spec.name != name.get()) continue;
      const Ort::TypeInfo type = input ? session_.GetInputTypeInfo(i) : session_.GetOutputTypeInfo(i);
      if (type.GetONNXType() == ONNX_TYPE_TENSOR) return check_shape(spec, type.GetTensorTypeAndShapeInfo().GetShape());
    }
    throw Error("the graph has no tensor `" + spec.name + "`", "export the run again");
  }

  // Fails where the provider is not there; ONNX Runtime would fall back to the CPU in silence.
  static void add_cuda(Ort::SessionOptions& settings, int gpu, void* stream) {
    try {
      OrtCUDAProviderOptions provider{};
      provider.device_id = gpu;
      provider.has_user_compute_stream = stream != nullptr ? 1 : 0;
      provider.user_compute_stream = stream;
      settings.AppendExecutionProvider_CUDA(provider);
    } catch (const Ort::Exception& error) {
      throw Error("onnxruntime was asked for CUDAExecutionProvider and has none: " + first_line(error.what()),
                  "install onnxruntime-gpu with its CUDA libraries, or use device `cpu`");
    }
  }

  std::vector<TensorSpec> inputs_, outputs_;
  std::vector<const char*> input_names_, output_names_;
  Ort::MemoryInfo memory_ = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  Ort::MemoryInfo gpu_memory_{nullptr};
  void* stream_ = nullptr;
  Ort::Session session_{nullptr};
  std::string device_;
};

class OnnxRuntimeRequest : public Request {
 public:
  explicit OnnxRuntimeRequest(OnnxRuntimeGraph& graph) : graph_(graph) {}
  void run(const std::vector<Input>& inputs, const std::vector<Output>& outputs, const Stream& stream) override {
    graph_.run(inputs, outputs, stream);
  }

 private:
  OnnxRuntimeGraph& graph_;
};

std::unique_ptr<Request> OnnxRuntimeGraph::request() { return std::make_unique<OnnxRuntimeRequest>(*this); }

}  // namespace

std::unique_ptr<Graph> open_onnxruntime(const GraphFile& file, const Options& options) {
  return std::make_unique<OnnxRuntimeGraph>(file, options);
}

}  // namespace clouds
