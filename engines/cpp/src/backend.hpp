// The interface of every backend: named tensors in the caller's memory, in and out.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "clouds/options.hpp"
#include "tensor.hpp"

namespace clouds {

struct Input {
  const void* data;
  Shape shape;
  bool on_device = false;  // in memory of the graph's GPU
};
struct Output {
  void* data;  // null: not wanted
  Shape shape;
  bool on_device = false;
};

// The caller's CUDA stream. Where one is given, a call may return before its work on the GPU is done.
struct Stream {
  void* handle = nullptr;  // a cudaStream_t; null is CUDA's default stream
  bool given = false;
};

// One inference at a time, with memory of its own. Graphs outlive their requests.
class Request {
 public:
  Request() = default;
  Request(const Request&) = delete;
  Request& operator=(const Request&) = delete;
  virtual ~Request() = default;
  // Inputs and outputs in the order of the graph's specs; reads and writes the caller's memory. Throws Error.
  virtual void run(const std::vector<Input>& inputs, const std::vector<Output>& outputs, const Stream& stream) = 0;
};

// A loaded graph on one device. Any thread may ask it for requests.
class Graph {
 public:
  Graph() = default;
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;
  virtual ~Graph() = default;
  virtual std::unique_ptr<Request> request() = 0;
  virtual std::string device() const = 0;  // cpu, cuda:N, or what OpenVINO calls another one
  virtual bool on_gpu() const { return false; }  // whether it takes inputs and outputs in CUDA's memory
};

struct GraphFile {
  std::filesystem::path path;
  std::vector<TensorSpec> inputs;
  std::vector<TensorSpec> outputs;
  std::int64_t batch = 0;  // what nearly every call has, to plan for; 0: not known
  std::vector<std::string> warnings{};  // what makes it doubtful that an engine runs here
  bool host_code = false;  // whether an engine brings code of its own, as version-compatible ones do
};

// Loads a graph: an ONNX file, or an engine for the backends that run engines. Throws Error.
std::unique_ptr<Graph> open_graph(const std::string& backend, const GraphFile& file, const Options& options);

// The options with the backend that they ask for, or the first built in, and the precision by its one name. Throws Error
// when something in them is unknown or absurd; whether the backend is built in is asked when a graph is opened.
Options checked(const Options& options);

// The GPU that `cuda` or `cuda:N` means; -1 for every other device.
int cuda_index(const std::string& device);

// Whether a backend runs engines that were built ahead, and the version of each such library that is built in.
bool runs_engines(const std::string& backend);
std::map<std::string, std::string> engine_versions();

// One function for each backend that was found at configure time.
std::unique_ptr<Graph> open_openvino(const GraphFile& file, const Options& options);
std::unique_ptr<Graph> open_onnxruntime(const GraphFile& file, const Options& options);
std::unique_ptr<Graph> open_tensorrt(const GraphFile& file, const Options& options);
std::string tensorrt_version();

// What CUDA's runtime says of a GPU; PCI bus ids tell cards apart where CUDA_VISIBLE_DEVICES renumbers them.
struct CudaDevice {
  std::string pci_bus_id, sm, name;
  std::string runtime, driver;  // CUDA versions: what the library is made for, what the driver runs; such as 12.6
  bool asked = false;           // whether it answered
};
CudaDevice cuda_device(int index);

// Whether a graph's own sizes are those that bundle.json names: what is allocated for them is then no more than the graph
// itself asks for. Free sizes are negative.
void check_shape(const TensorSpec& spec, const Shape& own);

std::string first_line(const std::string& text);

}  // namespace clouds
